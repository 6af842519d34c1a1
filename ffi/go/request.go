package aieng

import (
	"context"
	"iter"
	"sync"
	"sync/atomic"
)

// Request is a request on its way. Its events wait in it until they are read: as many as it may have tokens.
type Request struct {
	engine *Engine
	key    uint64
	id     atomic.Uint64
	// more has an element when something may have come since the last look.
	more chan struct{}

	mu     sync.Mutex
	events []Event
	ended  bool
	err    error
}

func (r *Request) push(event Event, last bool) {
	r.mu.Lock()
	r.events, r.ended = append(r.events, event), last
	r.mu.Unlock()
	r.wake()
}

func (r *Request) fail(err error) {
	r.mu.Lock()
	r.ended, r.err = true, err
	r.mu.Unlock()
	r.wake()
}

func (r *Request) wake() {
	select {
	case r.more <- struct{}{}:
	default:
	}
}

// take empties the request's events.
func (r *Request) take() (events []Event, ended bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	events, r.events = r.events, nil
	return events, r.ended
}

// Events are the request's events as they come, to be read once and by one goroutine. They end after the last one. When the
// context ends, or the loop is left, the request is cancelled; Err says whether that, or something else, was its end.
func (r *Request) Events(ctx context.Context) iter.Seq[Event] {
	return func(yield func(Event) bool) {
		for {
			events, ended := r.take()
			for _, event := range events {
				if !yield(event) {
					r.Cancel()
					return
				}
			}
			if ended {
				return
			}
			select {
			case <-r.more:
			case <-ctx.Done():
				r.Cancel()
				r.mu.Lock()
				r.err = ctx.Err()
				r.mu.Unlock()
				return
			}
		}
	}
}

// Text reads a request to its end and gives the output of its first sample.
func (r *Request) Text(ctx context.Context) (string, error) {
	var text []byte
	for event := range r.Events(ctx) {
		if !event.Prompt && event.Sample == 0 {
			text = append(text, event.Text...)
		}
	}
	return string(text), r.Err()
}

// Err is why the events ended before the request did: the context's error, or the engine's.
func (r *Request) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// Cancel asks for the request's end; its last event follows.
func (r *Request) Cancel() error {
	return r.engine.cancel(r.id.Load())
}
