// The page's requests, and what they carry where the studio asks for a token.

// The token is in the part of the address that no browser sends. It is kept for this tab and this port, and in no cookie, which
// the browser would send to every port of the machine.
function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!/^[\w-]{16,64}$/.test(given ?? "")) return false;
  sessionStorage.setItem("token", given);
  history.replaceState(null, "", location.pathname);
  return true;
}
export const token = () => sessionStorage.getItem("token") ?? "";
const pass = () => token() ? { authorization: `Bearer ${token()}` } : {};
export const ticketed = (address, ticket) => ticket ? `${address}?ticket=${ticket}` : address;  // for what the browser fetches by itself
takeToken();
addEventListener("hashchange", () => { if (takeToken()) location.reload(); });

export async function ask(path, body, type = "application/json") {
  const options = body === undefined ? { headers: pass() } : { method: "POST", headers: { ...pass(), "content-type": type }, body: type === "application/json" ? JSON.stringify(body) : body };
  let answer;
  try { answer = await fetch(path, options); } catch { throw new Error("the studio cannot be reached: is it still running?"); }
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(found.error ?? `the studio has refused this (${answer.status})`);
  return found;
}

export function live() {
  const address = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/live`;
  return new WebSocket(address, token() ? ["dreamlift", token()] : []);  // which can be given no header
}

export async function refused() {
  try { return (await fetch("/api/runs", { headers: pass() })).status === 401; } catch { return false; }
}
