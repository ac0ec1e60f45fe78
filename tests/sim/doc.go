// Package sim plays the whole system in one process, one event at a time.
package sim
