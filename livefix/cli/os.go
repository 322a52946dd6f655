package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"

	"golang.org/x/term"
)

// OS fills in the parts of Env that the operating system knows.
func OS(version string) Env {
	env := Env{
		Args: os.Args[1:], Stdout: os.Stdout, Stderr: os.Stderr, StdoutTerminal: term.IsTerminal(int(os.Stdout.Fd())),
		Getenv: os.Getenv, Version: version,
	}
	env.Home, _ = os.UserHomeDir() // without one there are no files of the user's
	if u, err := user.Current(); err == nil {
		env.User = u.Username
	}
	if tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0); err == nil {
		env.Ask = func(question string, secret bool) (string, error) { return ask(tty, question, secret) }
	}
	return env
}

// ask asks on the terminal, whatever the standard streams are.
func ask(tty *os.File, question string, secret bool) (string, error) {
	fmt.Fprint(tty, question)
	if secret {
		answer, err := term.ReadPassword(int(tty.Fd()))
		fmt.Fprintln(tty)
		return string(answer), err
	}
	var line strings.Builder
	for one := make([]byte, 1); ; {
		_, err := tty.Read(one)
		switch {
		case errors.Is(err, io.EOF) && line.Len() > 0, err == nil && one[0] == '\n':
			return line.String(), nil
		case err != nil:
			return "", fmt.Errorf("read answer: %w", err)
		}
		line.WriteByte(one[0])
	}
}
