// Sixteen requests at once from one queue, half of them cancelled: example MODEL, or example simulated.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"aieng"
)

const (
	requests = 16
	length   = 32
)

func load(model string) (*aieng.Engine, error) {
	config := aieng.Config{KVTokens: 16384}
	if model == "simulated" {
		config.Device, config.SimulatedStep = aieng.Simulated, time.Millisecond
	}
	return aieng.Load(model, config)
}

// read reads a request to its end, cancels the odd ones on the way, and returns how many tokens it had.
func read(ctx context.Context, number int, request *aieng.Request) (tokens uint64, err error) {
	var finish *aieng.Finish
	for event := range request.Events(ctx) {
		if event.HasToken {
			tokens++
		}
		if tokens == 4 && number%2 == 1 && event.Finish == nil {
			if err := request.Cancel(); err != nil {
				return 0, err
			}
		}
		finish = event.Finish
	}
	wanted := aieng.Length
	if number%2 == 1 {
		wanted = aieng.Cancelled
	}
	if err := request.Err(); err != nil {
		return 0, err
	}
	if finish == nil || finish.Reason != wanted || finish.CompletionTokens != tokens || finish.PromptTokens <= 5 {
		return 0, fmt.Errorf("request %d: %+v, %d tokens seen", number, finish, tokens)
	}
	return tokens, nil
}

func run(model string) error {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	engine, err := load(model)
	if err != nil {
		return err
	}
	type result struct {
		tokens uint64
		err    error
	}
	results := make(chan result)
	for number := range requests {
		sampling := aieng.Sampling{MaxTokens: length, IgnoreEOS: true, Stop: []string{"never to come"}}
		if number%2 == 1 {
			sampling.MaxTokens = 4000
		}
		prompt := aieng.Text(fmt.Sprintf("%d reasons to link an engine:", number+2))
		request, err := engine.SubmitContext(ctx, prompt, sampling)
		if err != nil {
			return err
		}
		go func() {
			tokens, err := read(ctx, number, request)
			results <- result{tokens, err}
		}()
	}
	sum := uint64(0)
	for range requests {
		result := <-results
		if result.err != nil {
			return result.err
		}
		sum += result.tokens
	}
	if err := others(engine); err != nil {
		return err
	}
	if err := errors.Join(engine.Close(), engine.Close()); err != nil {
		return err
	}
	if _, err := engine.Submit(aieng.Text("late"), aieng.Sampling{}); !errors.Is(err, &aieng.Error{Status: aieng.Closed}) {
		return fmt.Errorf("a closed engine took a request: %v", err)
	}
	fmt.Printf("%d requests, %d cancelled, %d tokens\n", requests, requests/2, sum)
	return nil
}

// others calls what the requests above do not need.
func others(engine *aieng.Engine) error {
	ids, err := engine.Tokenize("to and fro", false, false)
	if err != nil {
		return err
	}
	if text, err := engine.Detokenize(ids); err != nil || text != "to and fro" {
		return fmt.Errorf("%q, %v", text, err)
	}
	if text, err := engine.Metrics(); err != nil || !strings.Contains(text, "\naieng_steps_total ") {
		return fmt.Errorf("metrics: %v", err)
	}
	ended, end := context.WithCancel(context.Background())
	defer end()
	request, err := engine.Submit(aieng.Text("forever"), aieng.Sampling{MaxTokens: 4000, IgnoreEOS: true})
	if err != nil {
		return err
	}
	for range request.Events(ended) {
		end()
	}
	if !errors.Is(request.Err(), context.Canceled) {
		return fmt.Errorf("a context ended, and the request did not say so: %v", request.Err())
	}
	_, err = engine.Submit(aieng.Text("x"), aieng.Sampling{Temperature: -1})
	if !errors.Is(err, &aieng.Error{Status: aieng.InvalidArgument}) {
		return fmt.Errorf("a negative temperature: %v", err)
	}
	return nil
}

func main() {
	if len(os.Args) != 2 {
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
