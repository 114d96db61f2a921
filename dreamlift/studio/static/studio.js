// The studio's page: what a visitor asks for goes out, what the run does comes in over one live connection.
import { ask, live, refused, ticketed, token } from "./server.js";
import { Curves } from "./plot.js";

const at = (id) => document.getElementById(id);
const page = {
  run: null, queue: [], presets: [], watch: false,  // as the server says
  opened: "",  // the earlier run that is shown; "": the one in progress
  shown: "", detail: null,  // the finished run in the frame
  camera: { azimuth: null, elevation: 0.3, distance: 3.0, as: null }, last: 0,  // azimuth null: turning
  picture: "", asked: false, socket: null, tries: 0, begun: null, trouble: "",
};
const curves = new Curves(at("curves"));
const busy = () => page.run !== null && ["loading", "running", "stopping"].includes(page.run.status);
const following = () => page.opened === "";

// ---- the server

function connect() {
  const socket = live();
  socket.binaryType = "arraybuffer";
  page.socket = socket;
  page.asked = false;
  socket.onmessage = (event) => typeof event.data === "string" ? hear(JSON.parse(event.data)) : receive(event.data);
  socket.onclose = async () => {
    if (page.watch && page.run !== null && !busy()) return;  // the page of one run, which is over
    page.tries += 1;
    if (await refused()) { say("Open the whole address that the terminal shows, with its token", "bad"); return; }
    say("The studio cannot be reached; trying again", "bad");
    setTimeout(connect, Math.min(500 * 2 ** page.tries, 10000));
  };
}

const tell = (message) => { if (page.socket?.readyState === WebSocket.OPEN) page.socket.send(JSON.stringify(message)); };

function hear(message) {
  if (message.type === "state") {
    page.tries = 0;
    Object.assign(page, { run: message.run, queue: message.queue, watch: message.watch, trouble: message.trouble });
    document.body.classList.toggle("watch", page.watch);
    showPresets(message.presets);
    if (following()) curves.set(message.curves);
    tell({ type: "pair", wanted: !document.hidden });
    showRun();
    listRuns();
  } else if (message.type === "run") {
    const before = page.run;
    page.run = message.run;
    if (before?.number !== page.run.number) begun();
    showRun();
    if (before?.status !== page.run.status) listRuns();
  } else if (message.type === "steps" && page.run?.number === message.number) {
    Object.assign(page.run, { index: message.index, total: message.total });
    page.begun ??= [performance.now(), message.index];
    if (following()) { curves.add(message.points); at("curves-card").hidden = curves.empty; }
    showSteps();
    look();
  } else if (message.type === "queue") {
    page.queue = message.queue;
    showQueue();
  }
}

async function receive(buffer) {
  const head = new DataView(buffer), size = head.getUint32(0);
  const message = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, size)));
  const bytes = new Uint8Array(buffer, 8 + size);
  if (message.type === "frame") {
    page.asked = false;
    page.last = message.azimuth;
    if (following() && busy()) {
      await paint(at("live"), bytes);
      at("empty").hidden = true;
      at("live").dataset.step = message.index;
    }
    requestAnimationFrame(look);
  } else if (message.type === "pair" && following()) {
    await Promise.all([paint(at("seen"), bytes.slice(0, message.first)), paint(at("guess"), bytes.slice(message.first))]);
    at("seen-what").textContent = { place: "its places, as colors", normal: "its normals, as colors" }[message.show] ?? "its colors";
    at("teacher").hidden = false;
  }
}

async function paint(canvas, bytes) {
  const picture = await createImageBitmap(new Blob([bytes], { type: "image/jpeg" }));
  const ratio = Math.min(devicePixelRatio || 1, 2), width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
  if (width && (canvas.width !== width || canvas.height !== height)) Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d"), side = Math.min(canvas.width, canvas.height);
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(picture, (canvas.width - side) / 2, (canvas.height - side) / 2, side, side);
  picture.close();
}

function look() {
  if (page.asked || document.hidden || !following() || page.run?.status !== "running") return;
  page.asked = true;
  tell({ type: "look", ...page.camera });
}

// ---- what is shown

function say(text, kind) {
  const status = at("status");
  if (status.textContent !== text) status.textContent = text;
  status.dataset.kind = kind;
}

function begun() {
  page.begun = null;
  page.asked = false;
  page.opened = "";
  curves.clear();
  at("teacher").hidden = at("curves-card").hidden = true;
  at("empty").hidden = false;
}

function showRun() {
  const run = page.run, own = following();
  const name = own ? run?.name ?? "" : page.opened;
  const ended = !own || (run !== null && !busy());
  if (ended && name && page.shown !== name) { page.shown = name; showDetail(name); }
  if (!ended) { page.shown = ""; page.detail = null; }
  if (own) {
    const words = { loading: "Getting ready", running: "Making it", stopping: "Stopping", finished: "Finished", stopped: "Stopped; it can be continued", failed: "It failed" };
    const kind = run === null ? "idle" : busy() ? "busy" : run.status === "finished" ? "good" : run.status === "failed" ? "bad" : "idle";
    if (page.trouble && !busy()) say("No run can be started", "bad");
    else say(run === null ? "Ready" : words[run.status] ?? run.status, kind);
    at("title").textContent = run === null ? "Nothing is being made" : run.prompt || "a run";
    document.title = run !== null && busy() ? `${run.prompt} · dreamlift studio` : "dreamlift studio";
  } else if (page.detail) {
    at("title").textContent = page.detail.prompt;
  }
  const live = own && run !== null && busy();
  at("stop").hidden = !live;
  at("stop").disabled = run?.status === "stopping";
  at("back").hidden = own || !busy();
  at("progress").hidden = !live;
  at("tools").hidden = !(live && run.status === "running");
  if (live) {
    at("doing").textContent = run.stage;
    at("asset").hidden = at("downloads").hidden = at("facts").hidden = at("more").hidden = at("resume").hidden = true;
    at("live").hidden = false;
  } else if (own && run === null) {
    at("empty").hidden = false;
  }
  const said = own && run !== null ? [...run.notes, run.error] : [page.detail?.error];
  const notes = [...new Set([...said, own ? page.trouble : ""])].filter(Boolean);
  at("notes").replaceChildren(...notes.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  at("notes").hidden = notes.length === 0;
  showSteps();
  showQueue();
  look();
}

function showSteps() {
  const run = page.run;
  if (run === null || !run.total) { at("steps").textContent = at("left").textContent = ""; at("bar").removeAttribute("value"); return; }
  at("bar").value = run.index / run.total;
  at("steps").textContent = `step ${run.index} of ${run.total}`;
  const [when, first] = page.begun ?? [0, run.index], done = run.index - first;
  const seconds = done > 3 ? (run.total - run.index) * (performance.now() - when) / 1000 / done : 0;
  at("left").textContent = run.index >= run.total ? "writing the files" : seconds ? `about ${clock(seconds)} left` : "";
}

const clock = (seconds) => seconds < 90 ? `${Math.max(1, Math.round(seconds))} s` : `${Math.round(seconds / 60)} min`;
const bytes = (size) => size < 1e6 ? `${Math.max(1, Math.round(size / 1e3))} kB` : `${(size / 1e6).toFixed(1)} MB`;

async function showDetail(name) {
  let found;
  try { found = await ask(`/api/runs/${encodeURIComponent(name)}`); } catch { return; }
  if (page.shown !== name) return;
  page.detail = found;
  at("title").textContent = found.prompt;
  curves.set(found.curves);
  at("curves-card").hidden = curves.empty;
  if (!following()) at("teacher").hidden = true;
  const where = `/runs/${encodeURIComponent(name)}`;
  const held = document.activeElement === at("live");  // hidden, it would lose the focus
  at("asset").hidden = !found.view;
  at("live").hidden = found.view;
  at("empty").hidden = found.view || (following() && !at("live").hidden);
  if (found.view) {
    at("asset").onload = () => { at("asset").dataset.shown = name; if (held) at("asset").focus(); };
    at("asset").src = `${ticketed(`${where}/view`, found.ticket)}#background=white`;
  }
  showFiles(found);
  const facts = [["seed", found.seed], ["took", found.seconds && clock(found.seconds)], ["triangles", found.faces && Math.round(found.faces).toLocaleString("en")],
    ["file against scene", found.psnr && `${found.psnr.toFixed(1)} dB`], ["prior", found.prior]].filter(([, value]) => value || value === 0);
  at("facts").replaceChildren(...facts.map(([label, value]) => {
    const item = document.createElement("span"), strong = document.createElement("b");
    strong.textContent = value;
    item.append(`${label} `, strong);
    return item;
  }));
  at("facts").hidden = facts.length === 0;
  at("more").hidden = false;
  at("resume").hidden = found.status === "finished" || (busy() && page.run.name === name);
  if (!following()) { say(`Opened: ${found.prompt} (${found.status})`, found.status === "finished" ? "good" : "idle"); showRun(); }
  markRuns();
}

function showFiles(found) {
  const where = `/runs/${encodeURIComponent(found.name)}`;
  at("files").replaceChildren(...found.files.map((file) => fileLink(ticketed(`${where}/${encodeURIComponent(file.name)}`, found.ticket), file)));
  at("downloads").hidden = found.files.length === 0;
}

async function renew() {  // tickets hold for some hours
  if (!token()) return;
  listRuns();
  const name = page.shown;
  if (!name || at("files").contains(document.activeElement)) return;
  try {
    const found = await ask(`/api/runs/${encodeURIComponent(name)}`);
    if (page.shown === name) showFiles(found);
  } catch { /* the next time */ }
}
setInterval(renew, 3600e3);

function fileLink(address, file) {
  const item = document.createElement("li"), link = document.createElement("a"), name = document.createElement("b");
  const size = document.createElement("span"), told = document.createElement("small");
  link.href = address;
  link.download = file.name;
  link.className = file.name === "asset.glb" ? "first" : "";
  name.textContent = file.name === "asset.glb" ? "Download asset.glb" : file.name;
  size.textContent = bytes(file.size);
  told.textContent = file.about;
  link.append(name, size, told);
  item.append(link);
  return item;
}

function showQueue() {
  at("waiting").hidden = page.queue.length === 0;
  at("queue").replaceChildren(...page.queue.map((each) => {
    const item = document.createElement("li"), what = document.createElement("span"), drop = document.createElement("button");
    what.textContent = `${each.prompt || "from a picture"} · seed ${each.seed}`;
    Object.assign(drop, { type: "button", className: "quiet", textContent: "Remove" });
    drop.setAttribute("aria-label", `Remove ${what.textContent} from the queue`);
    drop.onclick = () => trying(() => ask("/api/stop", { number: each.number }));
    item.append(what, drop);
    return item;
  }));
}

function showPresets(presets) {
  page.presets = presets;
  const chosen = at("preset").value, first = new Option("automatic", "");
  at("preset").replaceChildren(first, ...presets.map((each) => new Option(each.name, each.name)));
  at("preset").value = presets.some((each) => each.name === chosen) ? chosen : "";
  at("start").disabled = presets.length === 0;
  at("start").textContent = presets.length > 0 ? "Start" : page.trouble ? "Not available" : "Getting ready";
  showPurpose();
}

function showPurpose() {
  const found = page.presets.find((each) => each.name === at("preset").value);
  at("purpose").textContent = found ? `${found.purpose}; ${found.steps} steps${found.needs === "picture" ? "; needs a picture" : ""}`
    : page.picture ? "the default for a picture" : "the default for words";
}

async function listRuns() {
  if (page.watch) return;
  let found;
  try { found = (await ask("/api/runs")).runs; } catch { return; }
  const held = document.activeElement?.dataset?.run;
  at("runs").replaceChildren(...(found.length ? found.map(runTile) : [Object.assign(document.createElement("li"), { className: "none", textContent: "None yet: what you make is kept here." })]));
  if (held) document.querySelector(`#runs button[data-run="${CSS.escape(held)}"]`)?.focus();
  markRuns();
}

function runTile(run) {
  const item = document.createElement("li"), button = document.createElement("button"), tile = document.createElement("span");
  const name = document.createElement("span"), what = document.createElement("span");
  button.type = "button";
  button.dataset.run = run.name;
  Object.assign(tile, { className: "tile" });
  Object.assign(name, { className: "name", textContent: run.prompt });
  const status = run.status === "finished" ? "" : ` · ${page.run?.name === run.name && busy() ? "in progress" : run.status === "running" ? "interrupted" : run.status}`;
  Object.assign(what, { className: "what", textContent: `seed ${run.seed ?? "?"}${status}` });
  if (run.preview) tile.append(Object.assign(new Image(), { alt: "", loading: "lazy", src: ticketed(`/runs/${encodeURIComponent(run.name)}/preview.png`, run.ticket) }));
  else tile.textContent = page.run?.name === run.name && busy() ? "in progress" : "no picture";
  button.append(tile, name, what);
  button.onclick = () => open(run.name);
  item.append(button);
  return item;
}

function markRuns() {
  const current = following() ? page.run?.name : page.opened;
  for (const button of document.querySelectorAll("#runs button")) button.setAttribute("aria-current", String(button.dataset.run === current));
}

function open(name) {
  page.opened = busy() && page.run.name === name ? "" : name;
  page.shown = "";
  if (following()) tell({ type: "state" });  // its curves come anew
  showRun();
  markRuns();
  if (matchMedia("(max-width: 760px)").matches) at("title").scrollIntoView({ block: "start" });
}

// ---- the visitor

async function trying(act) {
  at("problem").hidden = true;
  try { return await act(); } catch (error) {
    at("problem").textContent = error.message;
    at("problem").hidden = false;
    return undefined;
  }
}

async function choose(file) {
  await trying(async () => {
    if (file.size > 24 << 20) throw new Error("the picture is larger than 24 MB: scale it down");
    const found = await ask("/api/pictures", file, "application/octet-stream");
    page.picture = found.picture;
    URL.revokeObjectURL(at("thumb").src);
    at("thumb").src = URL.createObjectURL(file);
    at("size").textContent = `${found.width} × ${found.height}`;
    at("chosen").hidden = false;
  });
  at("picture").value = "";
  showPurpose();
}

at("make").addEventListener("submit", async (event) => {
  event.preventDefault();
  await trying(async () => {
    const seed = Number(at("seed").value || 0);
    await ask("/api/start", { prompt: at("prompt").value.trim(), preset: at("preset").value, seed, picture: page.picture });
    if (!busy()) { page.opened = ""; begun(); }
    if (matchMedia("(max-width: 760px)").matches) at("title").scrollIntoView({ block: "start" });
  });
});
at("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); at("make").requestSubmit(); }
});
at("preset").addEventListener("change", showPurpose);
at("picture").addEventListener("change", () => { if (at("picture").files[0]) choose(at("picture").files[0]); });
at("forget").addEventListener("click", () => { page.picture = ""; at("chosen").hidden = true; showPurpose(); at("picture").focus(); });
for (const name of ["dragover", "dragleave", "drop"]) {
  addEventListener(name, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files[0]) choose(event.dataTransfer.files[0]);
  });
}
at("stop").addEventListener("click", () => trying(() => ask("/api/stop", { number: page.run.number })));
at("back").addEventListener("click", () => open(page.run.name));
at("more").addEventListener("click", () => trying(() => ask("/api/more", { run: page.detail.name })));
at("resume").addEventListener("click", () => trying(() => ask("/api/resume", { run: page.detail.name })));

function turn(azimuth, elevation) {
  page.camera.azimuth = (page.camera.azimuth ?? page.last) + azimuth;
  page.camera.elevation = Math.min(Math.max(page.camera.elevation + elevation, -1.4), 1.4);
  at("spin").setAttribute("aria-pressed", "false");
  look();
}
function zoom(factor) { page.camera.distance = Math.min(Math.max(page.camera.distance * factor, 1.6), 7); look(); }
const fingers = new Map();
at("live").addEventListener("pointerdown", (event) => { fingers.set(event.pointerId, event); at("live").setPointerCapture(event.pointerId); });
at("live").addEventListener("pointermove", (event) => {
  const before = fingers.get(event.pointerId);
  if (!before) return;
  fingers.set(event.pointerId, event);
  if (fingers.size === 1) turn(-0.008 * (event.clientX - before.clientX), 0.008 * (event.clientY - before.clientY));
});
for (const name of ["pointerup", "pointercancel"]) at("live").addEventListener(name, (event) => fingers.delete(event.pointerId));
at("live").addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(0.001 * event.deltaY)); }, { passive: false });
at("live").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, 0.15], ArrowDown: [0, -0.15] }[event.key];
  if (step) { event.preventDefault(); turn(...step); }
  if (event.key === "+" || event.key === "-") zoom(event.key === "+" ? 0.9 : 1.1);
});
at("spin").addEventListener("click", () => {
  page.camera.azimuth = page.camera.azimuth === null ? page.last : null;
  at("spin").setAttribute("aria-pressed", String(page.camera.azimuth === null));
  look();
});
for (const button of document.querySelectorAll("[data-as]")) {
  button.addEventListener("click", () => {
    page.camera.as = page.camera.as === button.dataset.as ? null : button.dataset.as;
    for (const each of document.querySelectorAll("[data-as]")) each.setAttribute("aria-pressed", String(each.dataset.as === page.camera.as));
    look();
  });
}
document.addEventListener("visibilitychange", () => { tell({ type: "pair", wanted: !document.hidden }); look(); });
if (matchMedia("(prefers-reduced-motion: reduce)").matches) { page.camera.azimuth = 0.5; at("spin").setAttribute("aria-pressed", "false"); }
connect();
