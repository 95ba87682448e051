package load

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// board is what the processes of a run share: for each user the acts that its watchers
// must come to see. An act makes a user come (odd numbers) or go (even ones). It is
// noted before it is done, so nobody can see one that is not there yet.
//
// It is a file mapped into each process: a watcher looks up an act for each event that
// it receives, which must cost nothing beside receiving it. Times are of the wall clock,
// the one clock that all processes of a machine have in common.
type board struct {
	slots []slot
	data  []byte
}

// recent is of how many acts of a user the times are kept.
const recent = 6

// slot is one user's.
type slot struct {
	acts    atomic.Uint32
	lenient atomic.Uint32 // not 0 once a departure may or may not be told, since the user was away for about the linger
	due     [recent]atomic.Int64
	came    [recent / 2]atomic.Int64 // the revisions of the last comings; 0 until known
}

// coming is where the revision of an act by which the user came is kept.
func (s *slot) coming(act uint32) *atomic.Int64 { return &s.came[act/2%(recent/2)] }

// newBoard makes a file for so many users. The caller removes it.
func newBoard(users int) (*board, string, error) {
	f, err := os.CreateTemp(sharedDir(), "rollcall-load-")
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = f.Close() }()
	b, err := mapBoard(f, users)
	if err != nil {
		_ = os.Remove(f.Name())
		return nil, "", err
	}
	return b, f.Name(), nil
}

// sharedDir is where files live in memory, if there is such a place.
func sharedDir() string {
	if i, err := os.Stat("/dev/shm"); err == nil && i.IsDir() {
		return "/dev/shm"
	}
	return ""
}

func openBoard(name string, users int) (*board, error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0) //nolint:gosec // the parent's
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return mapBoard(f, users)
}

func mapBoard(f *os.File, users int) (*board, error) {
	size := users * int(unsafe.Sizeof(slot{}))
	if err := f.Truncate(int64(size)); err != nil {
		return nil, err
	}
	data, err := syscall.Mmap(int(f.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", f.Name(), err)
	}
	return &board{unsafe.Slice((*slot)(unsafe.Pointer(unsafe.SliceData(data))), users), data}, nil //nolint:gosec // the layout is slot's
}

func (b *board) close() { _ = syscall.Munmap(b.data) }

// begin notes that a user comes or goes, as was due at a time.
func (b *board) begin(user uint32, due time.Time) {
	s := &b.slots[user]
	n := s.acts.Load() + 1
	s.due[n%recent].Store(due.UnixNano())
	if online(n) {
		s.coming(n).Store(0)
	}
	s.acts.Store(n)
}

// online tells what a user's state is after so many acts.
func online(act uint32) bool { return act%2 == 1 }

// welcomed notes the revision that a user's own welcome tells: that of its last coming.
func (s *slot) welcomed(rev int64) {
	if n := s.acts.Load(); online(n) {
		s.coming(n).CompareAndSwap(0, rev)
	}
}

// act is the act that a state of a user tells of. To one who saw the act last before, what
// lies between the two was merged. The revisions of the last comings tell: what is older
// than those can only be the next act of its kind. The act may be one that never was.
func (s *slot) act(isOnline bool, rev int64, last uint32) uint32 {
	n := s.acts.Load()
	for come := n - (n+1)%2; come <= n && n-come < recent-1; come -= 2 {
		switch was := s.coming(come).Load(); {
		case was == 0 || was > rev:
		case !isOnline:
			return come + 1
		case was < rev:
			return come + 2
		default:
			return come
		}
	}
	if online(last+1) == isOnline {
		return last + 1
	}
	return last + 2
}

// settled is the last act of a user that its state agrees with.
func (s *slot) settled(isOnline bool) uint32 {
	n := s.acts.Load()
	if online(n) != isOnline && n > 0 {
		n--
	}
	return n
}

// since is how long ago an act was due; false if that is forgotten.
func (s *slot) since(act uint32, now time.Time) (time.Duration, bool) {
	if s.acts.Load()-act >= recent-1 { // one is being written, perhaps
		return 0, false
	}
	return time.Duration(now.UnixNano() - s.due[act%recent].Load()), true
}
