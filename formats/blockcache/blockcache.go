// Package blockcache keeps a bounded number of blocks of an image in memory:
// mapping tables and decompressed clusters, loaded when first asked for.
package blockcache

import (
	"container/list"
	"sync"
)

// Cache holds the blocks used most recently. It may be used from several
// goroutines at once; a block that two of them ask for is loaded once.
type Cache[T any] struct {
	load func(key int64) (T, error)
	max  int

	mu    sync.Mutex
	known map[int64]*list.Element
	order *list.List // of *entry, most recent first
}

type entry[T any] struct {
	key   int64
	once  sync.Once
	value T
	err   error
}

// New makes a cache of at most maxBlocks blocks that gets missing ones from load.
// Blocks that Get returned are shared: nobody may write to them.
func New[T any](maxBlocks int, load func(key int64) (T, error)) *Cache[T] {
	return &Cache[T]{load: load, max: max(maxBlocks, 1), known: make(map[int64]*list.Element), order: list.New()}
}

// Get returns the block of key. Errors of load are not kept.
func (c *Cache[T]) Get(key int64) (T, error) {
	c.mu.Lock()
	el, ok := c.known[key]
	if ok {
		c.order.MoveToFront(el)
	} else {
		el = c.order.PushFront(&entry[T]{key: key})
		c.known[key] = el
		if c.order.Len() > c.max {
			old := c.order.Back()
			c.order.Remove(old)
			delete(c.known, old.Value.(*entry[T]).key)
		}
	}
	e := el.Value.(*entry[T])
	c.mu.Unlock()

	e.once.Do(func() { e.value, e.err = c.load(key) })
	if e.err != nil {
		c.forget(key, el)
	}
	return e.value, e.err
}

func (c *Cache[T]) forget(key int64, el *list.Element) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known[key] == el {
		c.order.Remove(el)
		delete(c.known, key)
	}
}
