// The curve of each term: small plots beside each other, each with its own range, drawn as SVG.
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 150, HEIGHT = 44, MOST = 800;
// What the terms are, where a name alone says little.
const TOLD = {
  loss: "loss", grad_rms: "gradient", grad_norm: "gradient of the scene", t: "noise level t", sparsity: "sparsity", tv: "smoothness",
};

export class Curves {
  constructor(place) { this.place = place; this.clear(); }

  clear() { this.steps = []; this.terms = new Map(); this.plots = new Map(); this.place.replaceChildren(); }

  set(curves) {
    this.clear();
    if (!curves) return;
    this.steps = curves.steps.slice();
    for (const [name, column] of Object.entries(curves.terms)) this.terms.set(name, column.slice());
    this.draw();
  }

  add(points) {
    for (const [step, values] of points) {
      while (this.steps.length && this.steps[this.steps.length - 1] >= step) {
        this.steps.pop();
        for (const column of this.terms.values()) column.pop();
      }
      for (const name of Object.keys(values)) {
        if (!this.terms.has(name) && this.terms.size < 16) this.terms.set(name, this.steps.map(() => null));
      }
      this.steps.push(step);
      for (const [name, column] of this.terms) column.push(values[name] ?? null);
    }
    if (this.steps.length > MOST) {
      this.steps = this.steps.filter((_, i) => i % 2 === 0);
      for (const [name, column] of this.terms) this.terms.set(name, column.filter((_, i) => i % 2 === 0));
    }
    this.draw();
  }

  get empty() { return this.steps.length === 0; }

  draw() {
    for (const [name, column] of this.terms) {
      const plot = this.plots.get(name) ?? this.make(name);
      const known = column.map((value, i) => [this.steps[i], value]).filter(([, value]) => value !== null);
      if (!known.length) continue;
      const values = known.map(([, value]) => value);
      let low = Math.min(...values), high = Math.max(...values);
      if (high === low) { low -= 0.5; high += 0.5; }
      const first = this.steps[0], span = Math.max(this.steps[this.steps.length - 1] - first, 1);
      const x = (step) => (2 + (WIDTH - 4) * (step - first) / span).toFixed(1);
      const y = (value) => (HEIGHT - 3 - (HEIGHT - 6) * (value - low) / (high - low)).toFixed(1);
      const path = (points) => "M" + points.map(([step, value]) => `${x(step)} ${y(value)}`).join("L");
      plot.raw.setAttribute("d", path(known));
      plot.line.setAttribute("d", path(smooth(known)));
      const last = known[known.length - 1];
      plot.dot.setAttribute("cx", x(last[0]));
      plot.dot.setAttribute("cy", y(smooth(known).at(-1)[1]));
      plot.value.textContent = short(last[1]);
      plot.picture.setAttribute("aria-label", `${TOLD[name] ?? name}: from ${short(low)} to ${short(high)}, now ${short(last[1])}`);
    }
  }

  make(name) {
    const figure = document.createElement("figure"), caption = document.createElement("figcaption");
    const label = document.createElement("span"), value = document.createElement("b");
    label.textContent = TOLD[name] ?? name.replaceAll("_", " ");
    label.title = name;
    caption.append(label, value);
    const picture = document.createElementNS(SVG, "svg");
    picture.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    picture.setAttribute("preserveAspectRatio", "none");
    picture.setAttribute("role", "img");
    const raw = document.createElementNS(SVG, "path"), line = document.createElementNS(SVG, "path"), dot = document.createElementNS(SVG, "circle");
    dot.setAttribute("r", "2.5");
    raw.setAttribute("class", "raw");
    picture.append(raw, line, dot);
    figure.append(caption, picture);
    this.place.append(figure);
    const plot = { picture, raw, line, dot, value };
    this.plots.set(name, plot);
    return plot;
  }
}

// A running mean over a twentieth of the curve, since single steps are noisy.
function smooth(points) {
  const keep = Math.max(1 - 20 / points.length, 0);
  let mean = points[0][1];
  return points.map(([step, value]) => [step, mean = keep * mean + (1 - keep) * value]);
}

export function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-3 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}
