#!/bin/sh
# Paint the images of the README with the built-in model, offline, into outputs/demo.
set -eu
cd "$(dirname "$0")/.."
out=outputs/demo

echo "text to image:"
house=$(sdapp generate "a red house on a beach at sunset" --seed 7 --out "$out")
echo "  $house"

echo "image to image:"
painting=$(sdapp img2img "$house" "an oil painting of a red house in the snow at night" --strength 0.8 --seed 4 --out "$out")
echo "  $painting"

echo "inpainting:"
castle=$(sdapp inpaint "$house" docs/mask.png "a blue castle on a beach at sunset" --seed 2 --out "$out")
echo "  $castle"

echo "comparing schedulers:"
sdapp compare "a castle on a beach at night" --schedulers ddim,dpm++2m-karras --steps 5,10 --seeds 1 \
    --set 'compare.references=[dpm++2m-karras@40, heun@20]' --out "$out/comparison" > "$out/comparison.txt"
echo "  $(head -n 1 "$out/comparison.txt")"

echo
echo "Look at $out/comparison/report.html in a browser. What to type next:"
case "$(command -v sdapp)" in
"$PWD"/.venv/*) echo "  export PATH=\"$PWD/.venv/bin:\$PATH\"" ;; # of make demo, which sets it for itself only
esac
echo '  sdapp generate "a yellow ship on the ocean at night" --seed 1'
echo '  sdapp batch examples/prompts.txt --out night'
echo '  sdapp generate --help'
