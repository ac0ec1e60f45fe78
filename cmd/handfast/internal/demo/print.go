package demo

import (
	"fmt"
	"io"
)

// printer tells a person what happens, unless the result is for a program.
type printer struct {
	out   io.Writer
	quiet bool
}

func (p *printer) say(format string, args ...any) {
	if !p.quiet {
		_, _ = fmt.Fprintf(p.out, format+"\n", args...)
	}
}

func (p *printer) rows(title string, rows []string) {
	p.say("  %s", title)
	for _, r := range rows {
		p.say("    %s", r)
	}
}

func (p *printer) keep(c *cluster) {
	p.say("\nEverything keeps running until Ctrl-C.")
	p.say("  coordinator  %s   (handfast tx list --server %s)", c.tc.addr, c.tc.addr)
	for _, name := range databases {
		p.say("  %-12s %s", name, c.dsn[name])
	}
}
