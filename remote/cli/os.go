package cli

import (
	"io"
	"os"

	"golang.org/x/term"
)

// OS fills in the parts of Env that the operating system knows.
func OS(version string) Env {
	executable, err := os.Executable()
	if err != nil {
		executable = os.Args[0]
	}
	return Env{
		Args:   os.Args[1:],
		Stdout: os.Stdout, Stderr: os.Stderr,
		StdoutTerminal: term.IsTerminal(int(os.Stdout.Fd())),
		StderrTerminal: hasScreen(os.Stderr),
		Getenv:         os.Getenv,
		Version:        version,
		Executable:     executable,
	}
}

// hasScreen says that bars can be drawn: a serial line is a terminal too, but
// of no known size.
func hasScreen(f *os.File) bool {
	width, height, err := term.GetSize(int(f.Fd()))
	return err == nil && width > 0 && height > 0
}

// printer remembers the first error of a writer: a result that could not be
// printed is not delivered.
type printer struct {
	w   io.Writer
	err error
}

// Write passes on to the writer.
func (p *printer) Write(data []byte) (int, error) {
	n, err := p.w.Write(data)
	if p.err == nil {
		p.err = err
	}
	return n, err
}
