// Package tcc reserves in other services and confirms or cancels it when the global
// transaction is decided: Try, Confirm, Cancel.
//
//	tm.Manager.Do                     TC                        stock service
//	  |-- tcc.Call ---- register ---->|  Confirm and Cancel are    |
//	  |<------- durable --------------|  known before Try          |
//	  |-- Try, with its identity --------------------------------->| reserve
//	  |<-- result ------------------------------------------------ |
//	  |---- vote yes, result -------->|                            |
//	  |                               |                            |
//	  |-- commit or roll back ------->|-- Confirm or Cancel ------>| until it succeeds,
//	                                  |   with the result of Try   | with or without Do
//
// Cancel is called also where nobody knows whether Try happened, so it may come
// without Try, or before it. Confirm, Cancel and Try may come more than once. Package
// fence in the called service takes care of all that.
package tcc
