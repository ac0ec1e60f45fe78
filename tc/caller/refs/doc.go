// Package refs puts results of steps into what is sent to later ones.
//
//	payload of a plan                    results                      what is sent
//	{"room": "${steps.hotel.room}",      hotel: {"room": 12, ...}     {"room": 12,
//	 "text": "Room ${steps.hotel.room}"}                               "text": "Room 12"}
//
// A reference is one of
//
//	${steps.NAME}              the whole result of a step that this one comes after
//	${steps.NAME.FIELD.SUB}    a field of it; elements of arrays by number, from 0
//	${own}, ${own.FIELD.SUB}   the same of the branch's own result
//
// A NAME may contain dots; of two that fit, the longer one is meant. A FIELD can't
// contain dots or "}".
//
// # In JSON
//
// Expand looks into the strings of a payload that is JSON, and leaves every other byte
// as it is. A string that is a reference and nothing else is replaced by the value, of
// whatever type, with the text that the step gave: no digit of a number changes. In a
// string with other text, a string stands without its quotes and everything else as
// its JSON. A result that is not JSON stands for itself, as a string. The key of an
// object can't be a reference.
//
// "$${" stands for "${". A dollar right before a reference is written \u0024 in JSON and
// %24 in a URL. What has no "${" stays as it is to the last byte; so does a payload that
// is not JSON.
//
// # In URLs and names
//
// ExpandURL takes references in the path, the query and the fragment, and escapes every
// byte of the value that could be more than a part of one element there. ExpandText
// inserts values as they are.
package refs
