// Package explore searches the state space of the commit protocol, all of it within
// bounds that it prints: the machine is that of package core itself, and what is around
// it, the log, the network, the databases and the participants, are small models that
// follow the rules of the protocol one by one. There is nothing to import; see the tests,
// docs/exploration.md for what they cover, and docs/spec for the same protocol in
// the language of a model checker.
package explore
