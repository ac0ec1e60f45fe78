// Package child starts processes that do not outlive the one that started them.
//
//	Start ─► own process group ─► Done ─► closed when it has ended
//	            │  parent killed: the kernel (Linux) or a shell signals it
//	            └─ Kill: SIGKILL to the group, as a crash
package child
