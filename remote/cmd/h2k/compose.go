package main

import (
	"context"
	"io"
	"log/slog"

	"hyper2kvm/agent/api"
	"hyper2kvm/agent/host"
	"hyper2kvm/agent/pipeline"
	"hyper2kvm/agent/secret"
	"hyper2kvm/buildimage"
	"hyper2kvm/remote/cli"
)

// compose gives the command line the data plane of this machine.
func compose(env cli.Env) cli.Env {
	env.Agent = func(imageDir string) api.Agent {
		keys := secret.Source{Getenv: env.Getenv, Ask: secret.Terminal}
		return pipeline.New(pipeline.Config{ImageDir: imageDir, Secrets: keys})
	}
	env.CheckHost = func(ctx context.Context, imageDir string) []api.Check { return host.This(imageDir).Checks(ctx) }
	env.BuildImage = func(ctx context.Context, o cli.ImageOptions, log io.Writer) error {
		return buildimage.Build(ctx, buildimage.Options{
			Profile: o.Profile, Kernel: o.Kernel, Out: o.Out, Log: slog.New(slog.NewTextHandler(log, nil)),
		})
	}
	return env
}
