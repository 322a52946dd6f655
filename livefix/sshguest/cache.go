package sshguest

import (
	"errors"
	"io/fs"
	"path"
	"sync"
)

// patience is how many names of one folder are asked for one by one before the
// folder is listed: a round trip for each name is what makes a distant guest slow.
const patience = 2

// bigFolder is what no listing is read for just to answer for single names.
const bigFolder = 4000

// cache remembers what the guest said of names. It forgets a name when it is
// written, and everything when time has passed or a program of the guest ran.
type cache struct {
	mu     sync.Mutex
	infos  map[string]fs.FileInfo // nil for a name that is not there
	dirs   map[string][]fs.FileInfo
	listed map[string]bool // folders whose names were all told, once
	ask    map[string]bool // names of those that were written since
	misses map[string]int
	links  map[string]string
	labels map[string]map[string][]byte
}

func (c *cache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.infos, c.dirs, c.misses = map[string]fs.FileInfo{}, map[string][]fs.FileInfo{}, map[string]int{}
	c.listed, c.ask = map[string]bool{}, map[string]bool{}
	c.links, c.labels = map[string]string{}, map[string]map[string][]byte{}
}

// written forgets a name and what is below it.
func (c *cache) written(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.infos, name)
	delete(c.links, name)
	delete(c.labels, name)
	delete(c.dirs, name)
	delete(c.listed, name)
	delete(c.dirs, path.Dir(name))
	c.ask[name] = true
}

// info is what is known of a name; known is false where the guest has to be asked.
func (c *cache) info(name string) (info fs.FileInfo, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if info, known = c.infos[name]; known {
		return info, true
	}
	if c.listed[path.Dir(name)] && name != "." && !c.ask[name] {
		return nil, true // it would be among the names
	}
	// What lies below a missing folder is missing too.
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if above, known := c.infos[dir]; known {
			return nil, above == nil
		}
	}
	return nil, false
}

// list says whether a folder should be listed to answer for one of its names.
func (c *cache) list(dir string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.misses[dir]++
	return c.misses[dir] > patience && !c.listed[dir]
}

// tooBig keeps a folder from being listed again for a single name.
func (c *cache) tooBig(dir string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.misses[dir] = -1 << 30
}

func (c *cache) put(name string, info fs.FileInfo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.infos[name] = info
}

func (c *cache) folder(dir string) ([]fs.FileInfo, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	list, ok := c.dirs[dir]
	return list, ok
}

func (c *cache) putFolder(dir string, list []fs.FileInfo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dirs[dir], c.listed[dir] = list, true
	for _, info := range list {
		name := path.Join(dir, info.Name())
		c.infos[name] = info
		delete(c.ask, name)
	}
}

func (c *cache) link(name string) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	to, ok := c.links[name]
	return to, ok
}

func (c *cache) putLink(name, to string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.links[name] = to
}

func (c *cache) label(name string) (map[string][]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l, ok := c.labels[name]
	return l, ok
}

func (c *cache) putLabel(name string, l map[string][]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.labels[name] = l
}

var errSpecial = errors.New("neither a regular file nor a directory")
