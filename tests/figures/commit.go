package figures

import (
	"context"
	"os/exec"
	"strings"
)

// Commit is the short name of the commit in the working directory, with a "+" if files
// differ from it. It is empty where there is no git, or no repository.
func Commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return ""
	}
	commit := strings.TrimSpace(string(out))
	// Figures of other runs may lie there already; they are no part of what ran.
	changes, err := exec.CommandContext(ctx, "git", "status", "--porcelain", "--", ":/", ":!/docs").Output()
	if err != nil || len(changes) > 0 {
		commit += "+"
	}
	return commit
}
