package report

import (
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// figure is v for a reader: whole from 1000 on, with separators, else four digits.
func figure(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return strconv.FormatFloat(v, 'g', -1, 64)
	case v == 0:
		return "0"
	case a >= 1e15 || a < 1e-4:
		return strconv.FormatFloat(v, 'g', 4, 64)
	case a >= 999.95:
		return separated(strconv.FormatFloat(v, 'f', 0, 64))
	default:
		decimals := min(max(3-int(math.Floor(math.Log10(a))), 1), 6)
		s := strconv.FormatFloat(v, 'f', decimals, 64)
		return strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
}

// round is v with so many significant digits.
func round(v float64, digits int) float64 {
	r, err := strconv.ParseFloat(strconv.FormatFloat(v, 'g', digits, 64), 64)
	if err != nil {
		return v
	}
	return r
}

// separated puts a comma between each three digits of a whole number.
func separated(digits string) string {
	sign := ""
	if strings.HasPrefix(digits, "-") {
		sign, digits = "-", digits[1:]
	}
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return sign + b.String()
}

// unit is how a unit is shown.
func unit(u string) string {
	if u == "us" {
		return "µs"
	}
	return u
}

// measure is a figure with its unit.
func measure(v float64, u string) string {
	return strings.TrimSpace(figure(v) + " " + unit(u))
}

// span is a time since the beginning, or how long something took.
func span(seconds float64) string {
	if math.IsNaN(seconds) || math.Abs(seconds) < 60 || math.Abs(seconds) > maxSeconds {
		return figure(seconds) + "s"
	}
	s := (time.Duration(math.Round(seconds)) * time.Second).String() // 1h0m0s
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// when is a moment, in UTC, as the machines' logs have it.
func when(t time.Time) string {
	if t.IsZero() {
		return "at an unknown time"
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// plain is s on one line and without control characters, which could steer a terminal.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
}

// columns aligns rows: the first column and those in left to the left, the others,
// which are figures, to the right.
func columns(b *strings.Builder, rows [][]string, left ...int) {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	isLeft := map[int]bool{0: true}
	for _, i := range left {
		isLeft[i] = true
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			fill := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			line.WriteString("  ")
			if isLeft[i] {
				line.WriteString(plain(cell) + fill)
			} else {
				line.WriteString(fill + plain(cell))
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}
