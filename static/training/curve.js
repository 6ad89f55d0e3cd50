// The run's two curves as lines, with their first and last values as text. Losses become the mean probability of each
// right token, which staff can read.

const WIDTH = 600;
const HEIGHT = 160;
const MARGIN = 4;
const percent = new Intl.NumberFormat(document.documentElement.lang || "es", { style: "percent" });

export function drawCurve(points, memory) {
  const figure = document.getElementById("curve");
  if (!figure) return;
  const last = Math.max(...points.map(([step]) => step), 1);
  const series = { learned: 1, "held-out": 2 };
  for (const [name, place] of Object.entries(series)) {
    const own = points.filter((point) => point[place] !== null).map((point) => [point[0], Math.exp(-point[place])]);
    const corners = own.map(
      ([step, sureness]) =>
        `${((step / last) * WIDTH).toFixed(1)},${(HEIGHT - MARGIN - sureness * (HEIGHT - 2 * MARGIN)).toFixed(1)}`,
    );
    figure.querySelector(`polyline.${name}`).setAttribute("points", corners.join(" "));
    if (own.length) {
      const texts = [own[0], own.at(-1)].map(([, sureness]) => percent.format(sureness));
      figure.querySelector(`[data-curve="${name}"]`).textContent = own.length > 1 ? texts.join(" → ") : texts[0];
    }
  }
  if (memory) figure.querySelector('[data-curve="memory"]').textContent = memory;
}

const stored = document.getElementById("curve-points");
if (stored) drawCurve(JSON.parse(stored.textContent));
