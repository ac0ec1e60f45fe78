package orm_test

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/handfast/handfast/internal/hftest"
	"github.com/handfast/handfast/rm/rmsql"
)

// openDB opens a *sql.DB that ends with the test.
func openDB(t *testing.T, w *hftest.World) *sql.DB {
	t.Helper()
	db := rmsql.OpenDB(w.Pool)
	t.Cleanup(func() { w.Check(db.Close()) })
	return db
}

// account and entry are models of GORM, sqlx and bun.
type account struct {
	ID      int64 `bun:",pk,autoincrement"`
	Owner   string
	Balance int64
}

type entry struct {
	ID        int64 `bun:",pk,autoincrement"`
	AccountID int64 `db:"account_id"`
	Note      string
	At        time.Time `bun:",nullzero" gorm:"default:now()"`
}

func addGORM(t *testing.T, w *hftest.World, to map[string]bank) {
	t.Helper()
	for name, c := range map[string]gorm.Config{
		"gorm": {}, "gorm with prepared statements": {PrepareStmt: true}, "gorm without own transactions": {SkipDefaultTransaction: true},
	} {
		c.Logger = logger.Discard
		db, err := gorm.Open(postgres.New(postgres.Config{Conn: openDB(t, w)}), &c)
		w.Check(err)
		to[name] = gormBank{db}
		if c.PrepareStmt {
			t.Cleanup(func() { db.ConnPool.(*gorm.PreparedStmtDB).Close() })
		}
	}
}

type gormBank struct{ db *gorm.DB }

func (b gormBank) Transfer(ctx context.Context, from, to, amount int64, last func() error) error {
	return b.db.WithContext(ctx).Transaction(func(tx *gorm.DB) error {
		if err := tx.Create(&entry{AccountID: from, Note: "transfer"}).Error; err != nil {
			return err
		}
		if err := tx.Model(&account{}).Where("id = ?", from).Update("balance", gorm.Expr("balance - ?", amount)).Error; err != nil {
			return err
		}
		// A transaction inside is a savepoint.
		_ = tx.Transaction(func(tx *gorm.DB) error {
			tx.Delete(&account{}, 9)
			return errStop
		})
		// A statement whose context does not know the XID still belongs to it.
		if err := tx.WithContext(context.Background()).Exec("UPDATE accounts SET balance = balance + ? WHERE id = ?", amount, to).Error; err != nil {
			return err
		}
		return last()
	})
}

// Add is one statement for the database, though GORM puts it into a transaction
// of its own, unless told not to.
func (b gormBank) Add(ctx context.Context, id, amount int64) error {
	return b.db.WithContext(ctx).Exec("UPDATE accounts SET balance = balance + ? WHERE id = ?", amount, id).Error
}

func (b gormBank) Note(ctx context.Context, id int64, note string) (int64, error) {
	e := entry{AccountID: id, Note: note}
	err := b.db.WithContext(ctx).Create(&e).Error
	return e.ID, err
}

func (b gormBank) Balance(ctx context.Context, id int64) (int64, error) {
	var a account
	err := b.db.WithContext(ctx).First(&a, id).Error
	return a.Balance, err
}

func (b gormBank) Notes(ctx context.Context, id int64) (notes []string, err error) {
	err = b.db.WithContext(ctx).Model(&entry{}).Where(&entry{AccountID: id}).Order("id").Pluck("note", &notes).Error
	return notes, err
}
