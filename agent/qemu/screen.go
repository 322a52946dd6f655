package qemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"os"
)

// maxScreen bounds the sides of a screen picture, in pixels.
const maxScreen = 8192

// Screenshot is what the guest's first screen shows; the machine needs a
// display adapter for that ("-device VGA").
func (v *VM) Screenshot(ctx context.Context) (image.Image, error) {
	if err := v.screen.Truncate(0); err != nil {
		return nil, fmt.Errorf("empty screen memory: %w", err)
	}
	err := v.Execute(ctx, "screendump", map[string]string{"filename": v.screenArg}, nil)
	if err != nil {
		return nil, fmt.Errorf("take picture of the screen: %w", err)
	}
	return decodePPM(io.NewSectionReader(v.screen, 0, 3*maxScreen*maxScreen+64))
}

// SavePNG writes what the guest's screen shows to path.
func (v *VM) SavePNG(ctx context.Context, path string) error {
	picture, err := v.Screenshot(ctx)
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("save screen picture: %w", err)
	}
	if err := errors.Join(png.Encode(f, picture), f.Close()); err != nil {
		return fmt.Errorf("save screen picture %s: %w", path, err)
	}
	return nil
}

// decodePPM reads the binary pixmap format (P6, netpbm's ppm(5)) with 8 bits a
// colour, which all versions of QEMU write.
func decodePPM(r io.Reader) (image.Image, error) {
	in := bufio.NewReader(r)
	var width, height, depth int
	if _, err := fmt.Fscanf(in, "P6\n%d %d\n%d", &width, &height, &depth); err != nil {
		return nil, fmt.Errorf("read header of screen picture: %w", err)
	}
	if width < 1 || height < 1 || width > maxScreen || height > maxScreen || depth != 255 {
		return nil, fmt.Errorf("screen picture of %dx%d pixels, depth %d, is not readable", width, height, depth)
	}
	if _, err := in.Discard(1); err != nil { // the white space that ends the header
		return nil, fmt.Errorf("read screen picture: %w", err)
	}
	picture := image.NewRGBA(image.Rect(0, 0, width, height))
	row := make([]byte, 3*width)
	for y := range height {
		if _, err := io.ReadFull(in, row); err != nil {
			return nil, fmt.Errorf("read screen picture, line %d of %d: %w", y, height, err)
		}
		for x := range width {
			picture.SetRGBA(x, y, color.RGBA{row[3*x], row[3*x+1], row[3*x+2], 255})
		}
	}
	return picture, nil
}
