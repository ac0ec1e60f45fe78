package main

import (
	"database/sql"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/go-resty/resty/v2"
)

// banks are two services. Money goes from north to south, in every way that DTM has
// for it. The coordinator is named by one URL, and nothing here knows which one it is.
type banks struct {
	dtm          string // such as http://127.0.0.1:36789/api/dtmsvr
	north, south string // URLs
	northDB      *sql.DB
}

// saga withdraws, then deposits. Where the deposit is refused the money goes back.
func (b *banks) saga(gid string, from, to money) error {
	s := dtmcli.NewSaga(b.dtm, gid).
		Add(b.north+"/withdraw", b.north+"/withdraw/undo", from).
		Add(b.south+"/deposit", b.south+"/deposit/undo", to)
	s.WaitResult = true
	return s.Submit()
}

// tcc holds the money at both banks. It is confirmed when all of them have agreed, and
// cancelled everywhere when one of them, or last, has not.
func (b *banks) tcc(gid string, from, to money, last func() error) error {
	return dtmcli.TccGlobalTransaction(b.dtm, gid, func(t *dtmcli.Tcc) (*resty.Response, error) {
		for _, branch := range []struct {
			what money
			url  string
		}{{from, b.north + "/withdraw"}, {to, b.south + "/deposit"}} {
			if resp, err := t.CallBranch(branch.what, branch.url+"/try", branch.url+"/confirm", branch.url+"/cancel"); err != nil {
				return resp, err
			}
		}
		return nil, last()
	})
}

// message withdraws in a local transaction of the caller's own. The deposit follows
// surely, and only if that has committed.
func (b *banks) message(gid string, from, to money) error {
	return dtmcli.NewMsg(b.dtm, gid).Add(b.south+"/deposit", to).
		DoAndSubmitDB(b.north+"/sent", b.northDB, func(tx *sql.Tx) error {
			return change(tx, statements["/withdraw"], from)
		})
}

// cutOff is message by a process that dies after its local commit: the message is
// prepared, and nobody submits it. The coordinator asks north what became of it.
func (b *banks) cutOff(gid string, from, to money) error {
	m := dtmcli.NewMsg(b.dtm, gid).Add(b.south+"/deposit", to)
	m.TimeoutToFail = 5 // seconds, until it asks
	if err := m.Prepare(b.north + "/sent"); err != nil {
		return err
	}
	barrier, err := dtmcli.BarrierFrom(m.TransType, m.Gid, "00", "msg") // that of DoAndSubmitDB
	if err != nil {
		return err
	}
	return barrier.CallWithDB(b.northDB, func(tx *sql.Tx) error {
		return change(tx, statements["/withdraw"], from)
	})
}
