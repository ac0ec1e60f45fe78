// Package config puts the settings of the coordinator together.
//
//	defaults < YAML file < HANDFAST_* < flags
//	    |          |           |          |
//	    +----------+-----+-----+----------+
//	                     v
//	          text of one setting and where it came from
//	                     |  the same parser for every source
//	                     v
//	             Server, typed and checked
//
// A setting has one name everywhere: store-dir in the file, --store-dir as a
// flag, HANDFAST_STORE_DIR in the environment. Because every source goes
// through one parser, an error reads the same wherever the value stood, and
// names that place.
package config
