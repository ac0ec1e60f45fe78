package config

import (
	"os"
	"strings"
	"testing"
)

// The table of settings in the documentation has every setting, with the
// default that it really has.
func TestDocumentationListsEverySetting(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	d := Defaults()
	for _, s := range settings(&d) {
		row := ""
		for line := range strings.Lines(string(raw)) {
			if cells := strings.Split(line, "|"); len(cells) > 2 && strings.Contains(cells[1], "`"+s.name+"`") {
				row = line
			}
		}
		if row == "" {
			t.Errorf("docs/operations.md has no row for %s", s.name)
			continue
		}
		if v := s.value.String(); v != "" && !strings.Contains(row, "| `"+v+"` |") {
			t.Errorf("docs/operations.md does not give %s as the default of %s: %s", v, s.name, row)
		}
	}
}
