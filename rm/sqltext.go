package rm

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// control finds the first statement in a text of SQL that begins or ends a
// transaction; "" where there is none. ROLLBACK TO SAVEPOINT does not.
func control(sql string) string {
	if !mayControl(sql) {
		return ""
	}
	for s := (scanner{sql: sql, single: !strings.Contains(sql, ";")}); ; {
		words, more := s.statement()
		if c := controls(words); c != "" {
			return c
		}
		if !more {
			return ""
		}
	}
}

// mayControl is a quick look for texts of one plain statement, the usual case.
func mayControl(sql string) bool {
	if i := strings.IndexByte(sql, ';'); i >= 0 && strings.TrimSpace(sql[i+1:]) != "" {
		return true
	}
	for i := range len(sql) {
		switch c := sql[i] | 0x20; {
		case sql[i] == ' ' || sql[i] == '\t' || sql[i] == '\n' || sql[i] == '\r' || sql[i] == '\f' || sql[i] == '\v':
			continue
		case c >= 'a' && c <= 'z':
			return strings.IndexByte("abcepr s", c) >= 0
		default:
			return true // a comment, or what is no statement at all
		}
	}
	return false
}

func controls(words []string) string {
	first, second := "", ""
	if len(words) > 0 {
		first = words[0]
	}
	if len(words) > 1 {
		second = words[1]
	}
	switch first {
	case "begin", "commit", "end", "abort":
		return strings.ToUpper(first)
	case "start", "prepare":
		if second == "transaction" {
			return strings.ToUpper(first + " " + second)
		}
	case "rollback":
		// ROLLBACK [WORK | TRANSACTION] TO [SAVEPOINT] name
		rest := words[1:]
		if len(rest) > 0 && (rest[0] == "work" || rest[0] == "transaction") {
			rest = rest[1:]
		}
		if len(rest) == 0 || rest[0] != "to" {
			return "ROLLBACK"
		}
	}
	return ""
}

// scanner walks over SQL text as Postgres' own lexer would: it knows strings,
// quoted names, dollar quotes and comments, so that a semicolon inside one of
// them ends nothing.
type scanner struct {
	sql    string
	pos    int
	single bool // there is one statement, so its first words will do
}

// statement reads to the next semicolon and gives the first words of what it
// passed, at most three, in lower case.
func (s *scanner) statement() (words []string, more bool) {
	words = make([]string, 0, 3)
	for s.pos < len(s.sql) {
		c := s.sql[s.pos]
		switch {
		case c == ';':
			s.pos++
			return words, true
		case c == '\'':
			s.quoted('\'', false)
		case c == '"':
			s.quoted('"', false)
		case c == '$' && s.dollar():
		case strings.HasPrefix(s.sql[s.pos:], "--"):
			s.lineComment()
		case strings.HasPrefix(s.sql[s.pos:], "/*"):
			s.blockComment()
		case isWordStart(c):
			w := s.word()
			if (w == "e" || w == "E") && s.pos < len(s.sql) && s.sql[s.pos] == '\'' {
				s.quoted('\'', true)
			}
			if len(words) < 3 {
				words = append(words, strings.ToLower(w))
			} else if s.single {
				return words, false
			}
		default:
			s.pos++
		}
	}
	return words, false
}

// quoted passes a string or a quoted name. A doubled quote ends one part and
// begins the next, which comes to the same here.
func (s *scanner) quoted(q byte, escapes bool) {
	for s.pos++; s.pos < len(s.sql); s.pos++ {
		switch {
		case escapes && s.sql[s.pos] == '\\':
			s.pos++
		case s.sql[s.pos] == q:
			s.pos++
			if escapes && s.pos < len(s.sql) && s.sql[s.pos] == q {
				continue
			}
			return
		}
	}
}

// dollar passes a dollar-quoted string, if one begins here.
func (s *scanner) dollar() bool {
	rest := s.sql[s.pos+1:]
	end := strings.IndexByte(rest, '$')
	if end < 0 {
		return false
	}
	for i := range end {
		if !isWord(rest[i]) || (i == 0 && !isWordStart(rest[i])) {
			return false
		}
	}
	tag := s.sql[s.pos : s.pos+end+2]
	body := s.sql[s.pos+len(tag):]
	if i := strings.Index(body, tag); i >= 0 {
		s.pos += i + 2*len(tag)
	} else {
		s.pos = len(s.sql)
	}
	return true
}

func (s *scanner) lineComment() {
	if i := strings.IndexAny(s.sql[s.pos:], "\r\n"); i >= 0 {
		s.pos += i
	} else {
		s.pos = len(s.sql)
	}
}

func (s *scanner) blockComment() {
	for depth := 0; s.pos < len(s.sql); {
		switch {
		case strings.HasPrefix(s.sql[s.pos:], "/*"):
			depth++
			s.pos += 2
		case strings.HasPrefix(s.sql[s.pos:], "*/"):
			depth--
			s.pos += 2
			if depth == 0 {
				return
			}
		default:
			s.pos++
		}
	}
	s.pos = min(s.pos, len(s.sql))
}

func (s *scanner) word() string {
	start := s.pos
	for s.pos < len(s.sql) && isWord(s.sql[s.pos]) {
		s.pos++
	}
	return s.sql[start:s.pos]
}

func isWordStart(c byte) bool {
	return c == '_' || c >= 0x80 || (c|0x20 >= 'a' && c|0x20 <= 'z')
}

func isWord(c byte) bool { return isWordStart(c) || c == '$' || (c >= '0' && c <= '9') }

// isName tells whether a text may be the name of a prepared statement, which
// pgx accepts in place of SQL.
func isName(sql string) bool { return sql != "" && !strings.ContainsAny(sql, " \t\r\n;('\"") }

// inline writes arguments into a statement of our own, for the simple protocol.
func inline(sql string, args []any) (string, error) {
	for i := len(args) - 1; i >= 0; i-- {
		var lit string
		switch a := args[i].(type) {
		case string:
			if strings.ContainsAny(a, "$\\\x00") {
				return "", fmt.Errorf("argument %d can't be written into SQL text", i+1)
			}
			lit = "'" + strings.ReplaceAll(a, "'", "''") + "'"
		case int:
			lit = strconv.Itoa(a)
		case int32:
			lit = strconv.Itoa(int(a))
		case int64:
			lit = strconv.FormatInt(a, 10)
		case uint32:
			lit = strconv.FormatUint(uint64(a), 10)
		case bool:
			lit = strconv.FormatBool(a)
		case time.Time:
			lit = a.UTC().Format("'2006-01-02T15:04:05.999999Z'")
		default:
			return "", fmt.Errorf("argument %d of type %T can't be written into SQL text", i+1, a)
		}
		sql = strings.ReplaceAll(sql, "$"+strconv.Itoa(i+1), "("+lit+")")
	}
	return sql, nil
}
