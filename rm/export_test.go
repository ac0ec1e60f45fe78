package rm

// Control is what a text of SQL would do to a transaction.
var Control = control
