package dtm

const asWorker = "HANDFAST_DTM_WORKER"

func work(string) error { return nil }
