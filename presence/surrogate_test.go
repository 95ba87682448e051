package presence_test

import (
	"testing"

	"github.com/rollcall-presence/rollcall/presence"
)

func TestLoneSurrogate(t *testing.T) {
	tests := map[string]bool{
		`"a"`:                   false,
		`"\u00e9\n"`:            false,
		`"\ud83d\ude00"`:        false,
		`"\uD83D\uDE00 \u263a"`: false,
		`"\ud83d"`:              true,
		`"\ude00"`:              true,
		`"\ude00\ud83d"`:        true,
		`"\ud83dx\ude00"`:       true,
		`"\ud83d\n"`:            true,
		`"\ud83d\ud83d\ude00"`:  true,
		`"\\ud83d"`:             false,
		`"\\\ud83d"`:            true,
		`"\"\ud83d\ude00\\"`:    false,
	}
	for in, want := range tests {
		if got := presence.LoneSurrogate([]byte(in)); got != want {
			t.Errorf("LoneSurrogate(%s) = %v; want %v", in, got, want)
		}
	}
}
