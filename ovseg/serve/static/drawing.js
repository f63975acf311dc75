// From pictures of numbers to pictures of colours. Nothing here knows the page.
const GREY = [150, 150, 150];

function loadPicture(source) {
  return new Promise((resolve, reject) => {
    const picture = new Image();
    picture.onload = () => resolve(picture);
    picture.onerror = () => reject(new Error("a picture of the answer did not come"));
    picture.src = source;
  });
}

async function bytesOf(source) {
  const picture = await loadPicture(source);
  const canvas = document.createElement("canvas");
  canvas.width = picture.naturalWidth;
  canvas.height = picture.naturalHeight;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  return { width: canvas.width, height: canvas.height, data: context.getImageData(0, 0, canvas.width, canvas.height).data };
}

// Numbers of 16 bits are in red and green; blue is 0..255 for 0..1.
async function numbersOf(source) {
  const { width, height, data } = await bytesOf(source);
  const ids = new Uint16Array(width * height);
  const third = new Uint8Array(width * height);
  for (let i = 0; i < ids.length; i++) {
    ids[i] = data[4 * i] | (data[4 * i + 1] << 8);
    third[i] = data[4 * i + 2];
  }
  return { width, height, ids, third };
}

// From dark blue by green to yellow, equally bright steps.
function heatColor(value) {
  const stops = [[38, 24, 74], [46, 92, 137], [44, 158, 133], [135, 209, 73], [250, 230, 60]];
  const place = Math.max(0, Math.min(1, value)) * (stops.length - 1);
  const low = Math.min(stops.length - 2, Math.floor(place));
  return stops[low].map((channel, i) => Math.round(channel + (stops[low + 1][i] - channel) * (place - low)));
}

// Mix colours into a photograph, which turns grey as they grow strong, and trace borders; as ovseg's overlays are drawn.
// colorOf(i) returns a colour, or null for the grey photograph; ids are what borders run between (null: none).
function paint(canvas, photo, alpha, colorOf, ids) {
  const { width, height } = canvas;
  const context = canvas.getContext("2d");
  const out = context.createImageData(width, height);
  const grey = Math.min(1, 2 * alpha);
  const thick = Math.max(1, Math.round(Math.min(width, height) / 500));
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      const at = 4 * i;
      const luma = 0.299 * photo[at] + 0.587 * photo[at + 1] + 0.114 * photo[at + 2];
      const color = colorOf(i);
      const edge =
        ids && ((x >= thick && ids[i - thick] !== ids[i]) || (y >= thick && ids[i - thick * width] !== ids[i]));
      for (let c = 0; c < 3; c++) {
        let value = photo[at + c] + (luma - photo[at + c]) * grey;
        if (color) value += (color[c] - value) * alpha;
        if (edge) value += (255 - value) * 0.6 * grey;
        out.data[at + c] = value;
      }
      out.data[at + 3] = 255;
    }
  }
  context.putImageData(out, 0, 0);
}
