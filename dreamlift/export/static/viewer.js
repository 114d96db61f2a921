// Shows the GLB that the page holds: WebGL 2, no other file, no network. It reads what dreamlift writes (one mesh, one
// material, PNG textures in the file), not any GLB. The address's #part sets the start, for example
// #azimuth=30&elevation=15&spin=0&light=0&clay=0&wire=1&background=white&ui=0&distance=3
"use strict";
(() => {
const VERTEX = `#version 300 es
in vec3 POSITION, NORMAL; in vec4 TANGENT; in vec2 TEXCOORD_0; in vec3 COLOR_0;
uniform mat4 camera;
out vec3 place, normal, color, corner; out vec4 tangent; out vec2 uv;
void main() {
  place = POSITION; normal = NORMAL; tangent = TANGENT; uv = TEXCOORD_0; color = COLOR_0;
  gl_Position = camera * vec4(POSITION, 1.0);
  corner = vec3(equal(ivec3(gl_VertexID % 3), ivec3(0, 1, 2)));
}`;
// The base colour, or with light: Lambert and GGX (the glTF specification's appendix B) under a key light from above the
// camera's right, a fill light from its left, and a sky that is brighter than the ground.
const FRAGMENT = `#version 300 es
precision highp float;
in vec3 place, normal, color, corner; in vec4 tangent; in vec2 uv;
uniform sampler2D baseMap, materialMap, normalMap;
uniform bool hasBase, hasMaterial, hasNormal, light, clay; uniform bool wire;
uniform float metallicFactor, roughnessFactor;
uniform vec3 eye, right, up, lineColor;
out vec4 result;
vec3 encode(vec3 c) { return mix(c * 12.92, 1.055 * pow(max(c, 0.0), vec3(1.0 / 2.4)) - 0.055, step(0.0031308, c)); }
vec3 lit(vec3 n, vec3 v, vec3 l, vec3 albedo, vec3 f0, float a) {
  float nl = max(dot(n, l), 0.0), nv = max(dot(n, v), 1e-3);
  vec3 h = normalize(l + v);
  float nh = max(dot(n, h), 0.0), vh = max(dot(v, h), 0.0), a2 = a * a;
  float d = a2 / (3.14159 * pow(nh * nh * (a2 - 1.0) + 1.0, 2.0));
  float g = 0.5 / max(nl * sqrt(nv * nv * (1.0 - a2) + a2) + nv * sqrt(nl * nl * (1.0 - a2) + a2), 1e-3);
  vec3 f = f0 + (1.0 - f0) * pow(1.0 - vh, 5.0);
  return nl * ((1.0 - f) * albedo + 3.14159 * d * g * f);
}
void main() {
  if (wire) {
    vec3 pixels = corner / fwidth(corner);
    result = vec4(lineColor, 0.8 * (1.0 - smoothstep(0.1, 0.8, min(min(pixels.x, pixels.y), pixels.z))));
    return;
  }
  vec3 base = clay ? vec3(0.6) : hasBase ? texture(baseMap, uv).rgb : color;
  if (!light) { result = vec4(encode(base), 1.0); return; }
  float metal = clay ? 0.0 : metallicFactor, rough = clay ? 0.8 : roughnessFactor;
  if (hasMaterial && !clay) { vec4 m = texture(materialMap, uv); rough *= m.g; metal *= m.b; }
  vec3 n = normal;
  if (hasNormal) {
    vec3 m = texture(normalMap, uv).rgb * 2.0 - 1.0;
    n = m.x * tangent.xyz + m.y * tangent.w * cross(normal, tangent.xyz) + m.z * normal;
  }
  vec3 v = normalize(eye - place);
  n = normalize(n);
  vec3 albedo = base * (1.0 - metal), f0 = mix(vec3(0.04), base, metal);
  float a = max(rough * rough, 0.02);
  vec3 key = normalize(v + 0.7 * right + 0.9 * up), fill = normalize(v - 1.2 * right + 0.1 * up);
  vec3 sky = mix(vec3(0.30, 0.29, 0.28), vec3(0.55, 0.57, 0.60), 0.5 + 0.5 * n.y);
  vec3 sum = 0.75 * lit(n, v, key, albedo, f0, a) + 0.2 * lit(n, v, fill, albedo, f0, a) + sky * (albedo + 0.7 * f0);
  result = vec4(encode(clamp(sum, 0.0, 1.0)), 1.0);
}`;
const BACKGROUNDS = { white: [1, 1, 1], grey: [0.46, 0.46, 0.48], dark: [0.09, 0.09, 0.1] };
const FOV = 42 * Math.PI / 180;  // of the shorter side
const canvas = document.getElementById("view");
const start = new URLSearchParams(location.hash.slice(1));
const flag = (name, fallback) => start.has(name) ? start.get(name) === "1" : fallback;
const number = (name, fallback) => Number.isFinite(parseFloat(start.get(name))) ? parseFloat(start.get(name)) : fallback;
const state = {
  azimuth: number("azimuth", 30) * Math.PI / 180, elevation: number("elevation", 20) * Math.PI / 180,
  spin: flag("spin", !matchMedia("(prefers-reduced-motion: reduce)").matches),
  light: flag("light", true), clay: flag("clay", false), wire: flag("wire", false),
  background: start.get("background") in BACKGROUNDS ? start.get("background") : "white",
};

function fail(text) {
  const box = document.getElementById("problem");
  box.textContent = text;
  box.hidden = false;
}

// ---- the file

function readGlb(bytes) {
  const view = new DataView(bytes.buffer), size = view.getUint32(12, true);
  const document_ = JSON.parse(new TextDecoder().decode(bytes.subarray(20, 20 + size)));
  const binary = bytes.subarray(28 + size);
  const slice = (index) => {
    const part = document_.bufferViews[index];
    return binary.slice(part.byteOffset, part.byteOffset + part.byteLength);
  };
  const primitive = document_.meshes[0].primitives[0], vectors = {};
  for (const [name, index] of Object.entries(primitive.attributes)) {
    const accessor = document_.accessors[index];
    vectors[name] = { data: new Float32Array(slice(accessor.bufferView).buffer), width: Number(accessor.type.slice(3)) };
  }
  const accessor = document_.accessors[primitive.indices], raw = slice(accessor.bufferView).buffer;
  const indices = accessor.componentType === 5123 ? Uint32Array.from(new Uint16Array(raw)) : new Uint32Array(raw);
  const position = document_.accessors[primitive.attributes.POSITION];
  const material = document_.materials[0], surface = material.pbrMetallicRoughness;
  const picture = (texture) => texture && new Blob(
    [slice(document_.images[document_.textures[texture.index].source].bufferView)], { type: "image/png" });
  return {
    vectors, indices, low: position.min, high: position.max, metallic: surface.metallicFactor,
    roughness: surface.roughnessFactor, baseMap: picture(surface.baseColorTexture),
    materialMap: picture(surface.metallicRoughnessTexture), normalMap: picture(material.normalTexture),
  };
}

// ---- drawing

function compile(gl) {
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
  gl.useProgram(program);
  return program;
}

function upload(gl, program, asset) {
  const faces = gl.createVertexArray(), wires = gl.createVertexArray();
  const attribute = (name, vector) => {
    const place = gl.getAttribLocation(program, name);
    if (place < 0) return;
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, vector.data, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, vector.width, gl.FLOAT, false, 0, 0);
  };
  // For the wireframe each triangle has corners of its own: then a pixel knows how far it is from the triangle's sides.
  const apart = new Float32Array(3 * asset.indices.length), points = asset.vectors.POSITION.data;
  asset.indices.forEach((index, i) => apart.set(points.subarray(3 * index, 3 * index + 3), 3 * i));
  gl.bindVertexArray(wires);
  attribute("POSITION", { data: apart, width: 3 });
  gl.bindVertexArray(faces);
  for (const [name, vector] of Object.entries(asset.vectors)) attribute(name, vector);
  if (!asset.vectors.COLOR_0) gl.vertexAttrib4f(gl.getAttribLocation(program, "COLOR_0"), 0.214, 0.214, 0.214, 1);
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, asset.indices, gl.STATIC_DRAW);
  return { faces, wires, count: asset.indices.length };
}

function load(blob) {
  return new Promise((done, failed) => {
    const image = new Image(), address = URL.createObjectURL(blob);
    image.onload = () => { URL.revokeObjectURL(address); done(image); };
    image.onerror = () => failed(new Error("a texture cannot be read"));
    image.src = address;
  });
}

async function uploadPictures(gl, program, asset) {
  const found = [["baseMap", "hasBase"], ["materialMap", "hasMaterial"], ["normalMap", "hasNormal"]];
  for (const [unit, [name, has]] of found.entries()) {
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    gl.uniform1i(gl.getUniformLocation(program, name), unit);
    gl.uniform1i(gl.getUniformLocation(program, has), asset[name] ? 1 : 0);
    if (!asset[name]) {
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, 1, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
      continue;
    }
    // As the numbers are, without a colour profile; the base colour is decoded from sRGB by the GPU.
    const image = await load(asset[name]);
    gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
    gl.texImage2D(gl.TEXTURE_2D, 0, name === "baseMap" ? gl.SRGB8_ALPHA8 : gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE, image);
    gl.generateMipmap(gl.TEXTURE_2D);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
  }
}

const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];

function lookAt(view) {
  const e = Math.cos(state.elevation);
  const back = [Math.sin(state.azimuth) * e, Math.sin(state.elevation), Math.cos(state.azimuth) * e];
  const right = [Math.cos(state.azimuth), 0, -Math.sin(state.azimuth)], up = cross(back, right);
  const eye = view.center.map((c, i) => c + view.distance * back[i]);
  const scale = 1 / Math.tan(FOV / 2), width = canvas.width, height = canvas.height, side = Math.min(width, height);
  const sx = scale * side / width, sy = scale * side / height;
  const near = Math.max(view.distance - 2 * view.radius, 0.01 * view.radius), far = view.distance + 2 * view.radius;
  const a = (far + near) / (near - far), b = 2 * far * near / (near - far);
  const [x, y, z] = [-dot(right, eye), -dot(up, eye), -dot(back, eye)];
  const camera = [
    sx * right[0], sy * up[0], a * back[0], -back[0], sx * right[1], sy * up[1], a * back[1], -back[1],
    sx * right[2], sy * up[2], a * back[2], -back[2], sx * x, sy * y, a * z + b, -z,
  ];
  return { camera, eye, right, up };
}

function draw(gl, program, parts, view) {
  const ratio = devicePixelRatio || 1, width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  gl.viewport(0, 0, width, height);
  gl.clearColor(...BACKGROUNDS[state.background], 1);
  gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
  const place = (name) => gl.getUniformLocation(program, name), look = lookAt(view);
  gl.uniformMatrix4fv(place("camera"), false, look.camera);
  for (const name of ["eye", "right", "up"]) gl.uniform3fv(place(name), look[name]);
  for (const name of ["light", "clay"]) gl.uniform1i(place(name), state[name] ? 1 : 0);
  gl.uniform1i(place("wire"), 0);
  gl.bindVertexArray(parts.faces);
  gl.drawElements(gl.TRIANGLES, parts.count, gl.UNSIGNED_INT, 0);
  if (!state.wire) return;
  gl.uniform1i(place("wire"), 1);
  gl.uniform3fv(place("lineColor"), state.clay ? [0.05, 0.25, 0.55] : [0.1, 0.9, 0.95]);
  gl.bindVertexArray(parts.wires);
  gl.enable(gl.BLEND);
  gl.drawArrays(gl.TRIANGLES, 0, parts.count);
  gl.disable(gl.BLEND);
}

// ---- the user

function listen(view) {
  const fingers = new Map();
  const zoom = (factor) => {
    view.distance = Math.min(Math.max(view.distance * factor, 1.1 * view.radius), 12 * view.radius);
  };
  canvas.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, event);
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    if (fingers.size === 2) {
      const other = [...fingers.values()].find((each) => each.pointerId !== event.pointerId);
      const gap = (each) => Math.hypot(each.clientX - other.clientX, each.clientY - other.clientY);
      zoom(gap(before) / Math.max(gap(event), 1));
    } else {
      turn(-0.008 * (event.clientX - before.clientX), 0.008 * (event.clientY - before.clientY));
    }
    fingers.set(event.pointerId, event);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, (event) => fingers.delete(event.pointerId));
  }
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(0.001 * event.deltaY)); }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] }[event.key];
    if (step) { event.preventDefault(); turn(...step); }
    if (event.key === "+" || event.key === "-") zoom(event.key === "+" ? 0.9 : 1.1);
  });
  for (const button of document.querySelectorAll("button")) {
    const name = button.dataset.name;
    const show = () => {
      if (name === "background") button.textContent = `background: ${state.background}`;
      else button.setAttribute("aria-pressed", String(state[name]));
    };
    button.addEventListener("click", () => {
      const names = Object.keys(BACKGROUNDS);
      state[name] = name === "background" ? names[(names.indexOf(state[name]) + 1) % names.length] : !state[name];
      show();
    });
    show();
  }
  return () => fingers.size > 0;
}

function turn(azimuth, elevation) {
  state.azimuth += azimuth;
  state.elevation = Math.min(Math.max(state.elevation + elevation, -1.5), 1.5);
}

async function main() {
  document.body.classList.toggle("bare", !flag("ui", true));
  const gl = canvas.getContext("webgl2", { antialias: true, alpha: false, preserveDrawingBuffer: true });
  if (!gl) return fail("This browser has no WebGL 2. The file asset.glb opens in any 3D viewer.");
  gl.clearColor(...BACKGROUNDS[state.background], 1);
  gl.clear(gl.COLOR_BUFFER_BIT);  // until the asset is read
  const text = atob(document.getElementById("glb").textContent.trim());
  const asset = readGlb(Uint8Array.from(text, (letter) => letter.charCodeAt(0)));
  const center = asset.low.map((low, i) => (low + asset.high[i]) / 2);
  const radius = 0.5 * Math.hypot(...asset.low.map((low, i) => asset.high[i] - low)) || 1;
  const view = { center, radius, distance: number("distance", 1.05 * radius / Math.sin(FOV / 2)) };
  const program = compile(gl), parts = upload(gl, program, asset);
  gl.uniform1f(gl.getUniformLocation(program, "metallicFactor"), asset.metallic);
  gl.uniform1f(gl.getUniformLocation(program, "roughnessFactor"), asset.roughness);
  await uploadPictures(gl, program, asset);
  gl.enable(gl.DEPTH_TEST);
  gl.depthFunc(gl.LEQUAL);
  gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
  const held = listen(view);
  let last = performance.now(), shown = "";
  const frame = (now) => {
    if (state.spin && !held()) state.azimuth += 0.0005 * Math.min(now - last, 100);
    last = now;
    const wanted = JSON.stringify([state, view.distance, canvas.clientWidth, canvas.clientHeight, devicePixelRatio]);
    if (wanted !== shown) draw(gl, program, parts, view);  // a picture that stands still costs nothing
    shown = wanted;
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
}

main().catch((error) => fail(`The asset cannot be shown here (${error.message}). The file asset.glb opens in any 3D viewer.`));
})();
