// The page's side of the arena. Whatever a person typed reaches the page as text, never as markup.

const $ = (id) => document.getElementById(id);
const corners = ["red", "blue"];
const fields = ["name", "question"];
const DAY = 86_400;
const MAX_REQUESTS = 6;
const PANEL_EVERY = 10_000;
const PANEL_AGAIN = 1_000; // While DynamoDB is away.
const DEVICES_EVERY = 2_000;
const ACTIVE = 45; // Seconds a device was not seen for, at most, that is in use: what its pages ask for counts.

let state = null; // What GET /api/arena says: player, score, duels, topics, contenders.
let current = null; // The duel on stage.
let busy = false;
let stream = null; // What stops the duel that is being spoken.
let alertIsThePanels = false;
let nextPanel;

/* Talking to the server. */

class Trouble extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(method, path, body, { label = path, signal } = {}) {
  const options = { method, headers: {}, cache: "no-store", signal };
  if (method === "POST") {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body ?? {});
  }
  let response;
  try {
    response = await fetch(`/api${path}`, options);
  } catch {
    throw new Trouble(0, "The arena does not answer.");
  }
  note(method, `/api${path}`, label, response.headers.get("X-DynamoDB-Calls"), response.status);
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  throw new Trouble(response.status, said.error ?? `The arena answered ${response.status}.`);
}

const get = async (path) => (await ask("GET", path)).json();
const post = async (path, body, options) => (await ask("POST", path, body, options)).json();

// Runs what a person asked for; if it cannot be done now, offers to do it again.
async function attempt(action, { field } = {}) {
  if (busy) return;
  beBusy(true);
  try {
    await action();
    hideAlert();
  } catch (trouble) {
    await explain(trouble, () => attempt(action, { field }), field);
  } finally {
    beBusy(false);
  }
  await Promise.all([showPanel(), lookForDevices()]);
}

// Buttons stay enabled meanwhile: a disabled one would lose the focus. The pointer shows why a click does nothing.
function beBusy(is) {
  busy = is;
  document.body.classList.toggle("busy", is);
}

async function explain(trouble, again, field) {
  if (!(trouble instanceof Trouble)) throw trouble;
  if (field && trouble.status === 422) {
    complain(field, trouble.message);
  } else if (trouble.status === 401 && state?.player) {
    await lookAgain();
  } else if (trouble.status === 503) {
    showAlert("The session store is out of reach.", "Nothing is lost and nobody is signed out: what is stored stays stored.", again);
  } else if (trouble.status === 0) {
    showAlert("The arena does not answer.", "Is the server running? Your session is not in it, so it can be restarted.", again);
  } else {
    showAlert("That did not work.", trouble.message, again);
  }
}

function showAlert(title, text, again) {
  $("alert-title").textContent = title;
  $("alert-text").textContent = text;
  $("retry").hidden = !again;
  $("retry").onclick = again;
  $("alert").hidden = false;
  if (state) return;
  document.body.dataset.phase = "closed";
  $("closed").hidden = false;
}

function hideAlert() {
  $("alert").hidden = true;
  alertIsThePanels = false;
}

function complain(field, message) {
  const input = $(field);
  input.setAttribute("aria-invalid", "true");
  $(`${field}-error`).textContent = message;
  setTimeout(() => input.focus());
}

function forgive(field) {
  $(field).removeAttribute("aria-invalid");
  $(`${field}-error`).textContent = "";
}

/* What is on stage. */

async function load() {
  state = await get("/arena");
  for (const field of fields) $(field).maxLength = state.limits[field];
  const latest = state.duels[0];
  // A duel that was begun and never heard, or heard and never judged, comes back to the stage.
  show(state.player && latest && !latest.vote ? latest : null);
}

// Somebody else has changed who is signed in here: another tab, another device, or time.
async function lookAgain() {
  const before = state?.player;
  await load();
  if (before && !state.player) {
    showAlert("You were signed out.", "This session was ended elsewhere, or it ran out. Sign in again to go on.", null);
    scrollTo({ top: 0, behavior: "smooth" });
  }
}

function show(duel) {
  stream?.abort();
  stream = null;
  current = duel;
  const phase = !state.player ? "out" : !duel ? "picking" : duel.vote ? "voted" : duel.answers ? "voting" : "waiting";
  for (const corner of corners) {
    $(`${corner}-motto`).textContent = state.contenders[corner].motto;
    $(`${corner}-speech`).textContent = duel?.answers?.[corner] ?? "";
  }
  $("who").hidden = $("trials").hidden = !state.player;
  $("player").textContent = state.player ?? "";
  if (!state.player) showDevices([]);
  $("asked").textContent = duel?.question ?? "";
  showTopics();
  enter(phase);
}

function enter(phase) {
  document.body.dataset.phase = phase;
  const isDuel = ["waiting", "speaking", "voting", "voted"].includes(phase);
  $("closed").hidden = true;
  $("entrance").hidden = phase !== "out";
  $("picker").hidden = phase !== "picking";
  $("duel").hidden = !isDuel;
  $("hear").hidden = phase !== "waiting";
  $("next").hidden = !["waiting", "voting", "voted"].includes(phase);
  $("actions").hidden = !isDuel;
  // The answers belong to the id under which they were asked for: no new one until they are saved.
  $("new-id").disabled = phase === "speaking";
  $("next").classList.toggle("bright", phase === "voted");
  for (const corner of corners) {
    const card = $(corner);
    card.classList.toggle("speaking", phase === "speaking");
    card.classList.toggle("winner", phase === "voted" && current.vote === corner);
    card.classList.toggle("loser", phase === "voted" && current.vote !== corner);
    card.querySelector(".vote").hidden = phase !== "voting";
    $(`${corner}-verdict`).hidden = !(phase === "voted" && current.vote === corner);
    $(`${corner}-speech`).setAttribute("aria-busy", String(phase === "speaking"));
    $(`${corner}-score`).textContent = state.score?.[corner] ?? 0;
  }
  $("status").textContent = {
    waiting: "The contenders are waiting for your sign.",
    speaking: "Both are speaking, and neither is listening.",
    voting: "They have spoken. Who said it better?",
    voted: `You sided with ${state.contenders[current?.vote]?.name}.`,
  }[phase] ?? "";
  showHistory();
}

function showTopics() {
  $("topics").replaceChildren(
    ...state.topics.map(({ id, question }) => {
      const button = element("button", "button", question);
      button.type = "button";
      button.onclick = () => attempt(() => start({ topic: id }));
      const item = document.createElement("li");
      item.append(button);
      return item;
    }),
  );
}

function showHistory() {
  const past = (state.duels ?? []).filter((duel) => duel.id !== current?.id);
  $("history").hidden = !state.player;
  $("no-duels").hidden = past.length > 0 || current !== null;
  $("history-title").hidden = past.length === 0 && current !== null;
  $("duels").replaceChildren(...past.map(remembered));
}

function remembered(duel) {
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  const outcome = duel.vote ? state.contenders[duel.vote].name : duel.answers ? "No verdict" : "Not heard";
  const asked = element("span", "asked", duel.question);
  asked.dir = "auto";
  summary.append(element("span", `outcome ${duel.vote ?? ""}`, outcome), asked);
  details.append(summary);
  if (duel.answers) {
    const said = element("div", "said");
    for (const corner of corners) {
      const block = element("div", corner);
      block.append(element("strong", "", state.contenders[corner].name), duel.answers[corner]);
      said.append(block);
    }
    details.append(said);
  }
  if (!duel.vote) {
    const row = element("div", "unsaid");
    const button = element("button", "button small", duel.answers ? "Give your verdict" : "Hear them out");
    button.type = "button";
    button.onclick = () => {
      if (busy) return;
      show(duel);
      $("asked").focus();
      scrollTo({ top: 0, behavior: "smooth" });
    };
    row.append(button);
    details.append(row);
  }
  const item = document.createElement("li");
  item.append(details);
  return item;
}

/* A duel. */

async function start(what) {
  const duel = await post("/duels", what);
  state.duels.unshift(duel);
  state.duels.length = Math.min(state.duels.length, state.limits.duels);
  $("question").value = "";
  forgive("question");
  show(duel);
  hear(duel);
}

// Shows the words as they come. Nobody waits for the end of it: one may well leave in the middle.
async function hear(duel) {
  const mine = new AbortController();
  stream = mine;
  for (const corner of corners) $(`${corner}-speech`).replaceChildren();
  enter("speaking");
  $("asked").focus({ preventScroll: true });
  try {
    const response = await ask("POST", `/duels/${duel.id}/answers`, {}, { label: "/duels/…/answers", signal: mine.signal });
    hideAlert();
    let ended = false;
    for await (const said of lines(response.body)) {
      if (said.end) ended = true;
      else $(`${said.corner}-speech`).append(element("span", "", said.word), " ");
    }
    if (!ended) throw new Trouble(0, "");
    await keep(duel, mine.signal);
  } catch (trouble) {
    if (mine.signal.aborted) return;
    enter("waiting");
    await explain(trouble instanceof Trouble ? trouble : new Trouble(0, ""), () => hear(duel));
  }
  await showPanel();
}

// The answers are saved when the stream has ended, a moment after its last word: look until they are there.
async function keep(duel, signal) {
  for (const pause of [60, 250, 700, 1500]) {
    await new Promise((resolve) => setTimeout(resolve, pause));
    if (signal.aborted) return;
    const now = await get("/arena");
    if (signal.aborted) return;
    if (!now.player) throw new Trouble(401, "");
    state = now;
    const kept = state.duels.find(({ id }) => id === duel.id);
    if (kept?.answers) {
      current = kept;
      enter(kept.vote ? "voted" : "voting");
      return;
    }
  }
  throw new Trouble(500, "They spoke, but their answers were not kept.");
}

async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const complete = (rest + value).split("\n");
    rest = complete.pop();
    yield* complete.map((line) => JSON.parse(line));
  }
}

async function vote(corner) {
  const answer = await post(`/duels/${current.id}/vote`, { corner }, { label: "/duels/…/vote" });
  state.score = answer.score;
  state.duels = state.duels.map((duel) => (duel.id === answer.duel.id ? answer.duel : duel));
  current = answer.duel;
  enter("voted");
  $("next").focus({ preventScroll: true }); // The button that was pressed is gone.
  const score = $(`${corner}-score`).parentElement;
  score.classList.remove("bumped");
  requestAnimationFrame(() => score.classList.add("bumped"));
}

/* Your devices. */

// Asks who is signed in as this player. What somebody does meanwhile is newer than the answer, which is then dropped.
async function lookForDevices() {
  if (busy || !state?.player) return;
  const asked = state;
  try {
    const { player, devices } = await get("/devices");
    if (busy || state !== asked) return;
    if (player === state.player) showDevices(devices);
    else await lookAgain();
  } catch (trouble) {
    if (!(trouble instanceof Trouble)) throw trouble;
    if (busy || state !== asked) return;
    if (trouble.status === 401) await lookAgain().then(showPanel, () => {});
    else $("devices-hint").textContent = "The list cannot be read just now.";
  }
}

// Touches only what is different, so that a button under the finger stays there, and only a newcomer makes an entrance.
function showDevices(devices) {
  $("devices-panel").hidden = devices.length === 0;
  $("devices-count").textContent = devices.length;
  $("devices-hint").textContent =
    {
      1: "Sign in under the same name in another browser, and watch it appear here.",
      [state.limits.devices]: "That is as many as there may be: the next sign-in ends the oldest.",
    }[devices.length] ?? "";
  $("end-others").hidden = devices.length < 2;
  const list = $("devices");
  const rows = new Map([...list.children].map((row) => [row.dataset.device, row]));
  const handles = new Set(devices.map(({ handle }) => handle));
  for (const [handle, row] of rows) if (!handles.has(handle)) row.remove();
  devices.forEach((device, place) => {
    const row = rows.get(device.handle) ?? deviceRow(device);
    if (list.children[place] !== row) list.insertBefore(row, list.children[place] ?? null);
    const active = device.idle <= ACTIVE;
    row.querySelector(".lamp").className = `lamp ${active ? "dynamodb" : ""}`;
    row.querySelector(".seen").textContent = active ? "Active now" : `Seen ${minutes(device.idle)} ago`;
  });
}

function deviceRow({ handle, browser, since, here }) {
  const row = element("li", "device");
  row.dataset.device = handle;
  const browserName = browser ?? "Some browser";
  const name = element("p", "device-name", browserName);
  if (here) name.append(" ", element("span", "this", "here"));
  const which = element("p", "quiet which");
  which.append(element("span", "mono", handle), ` since ${clock(since)}`);
  const text = element("div");
  text.append(name, element("p", "quiet seen"));
  row.append(element("span", "lamp"), text);
  if (!here) {
    const button = element("button", "button small", "End");
    button.type = "button";
    button.setAttribute("aria-label", `End ${browserName}, ${handle}`);
    button.onclick = () => attempt(() => end("/devices/end", { device: handle }));
    row.append(button);
  }
  row.append(which);
  return row;
}

async function end(path, what) {
  const { devices } = await post(path, what);
  showDevices(devices);
  $("devices-title").focus({ preventScroll: true });
}

function clock(at) {
  const day = new Date(at * 1000);
  const time = day.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return day.toDateString() === new Date().toDateString() ? time : `${day.toLocaleDateString()} ${time}`;
}

function minutes(seconds) {
  return `${Math.max(1, Math.round(seconds / 60))} min`;
}

/* Behind the curtain. */

const requests = [];
const polls = { "/api/panel": 0, "/api/devices": 0 }; // How often the page has looked by itself.
let left = null; // Seconds to expiry, counted down between polls.

function note(method, path, label, calls, status) {
  const operations = calls?.split(", ").filter(Boolean);
  if (path in polls) {
    polls[path] += 1;
    const [session, devices] = Object.values(polls);
    $("polls").textContent = `Not listed: what the page asks by itself, ${session}\u00a0× for this panel and ${devices}\u00a0× for the devices.`;
    return;
  }
  if (path === "/api/emulator") return;
  const chips = element("span", "chips");
  for (const what of counted(operations)) chips.append(element("span", operations?.length ? "chip" : "chip none", what));
  const item = element("li");
  item.append(element("span", "", `${method} ${label}${status >= 400 ? `, ${status}` : ""}`), chips);
  $("requests").prepend(item);
  requests.unshift({ path, chips, isLate: false, at: Date.now() / 1000 });
  if (requests.length > MAX_REQUESTS) {
    requests.pop();
    $("requests").lastChild.remove();
  }
  $("no-requests").hidden = true;
}

// What was asked of DynamoDB after the headers, and so by no header told.
function noteLate({ path, operations, at }) {
  const request = requests.find((one) => path.endsWith(one.path) || one.path.endsWith(path));
  if (!request || request.isLate || at < request.at - 1) return;
  request.isLate = true;
  for (const operation of operations) {
    const chip = element("span", "chip late", operation);
    chip.append(element("span", "hidden", " after the headers"));
    request.chips.append(chip);
  }
}

function counted(operations) {
  const times = new Map();
  for (const operation of operations ?? []) times.set(operation, (times.get(operation) ?? 0) + 1);
  const said = [...times].map(([operation, count]) => (count > 1 ? `${count}\u00a0×\u00a0${operation}` : operation));
  return said.length ? said : ["no call"];
}

async function showPanel() {
  clearTimeout(nextPanel);
  nextPanel = setTimeout(showPanel, PANEL_EVERY);
  if (document.hidden) return;
  let panel;
  try {
    [panel] = await Promise.all([get("/panel"), showSwitch()]);
  } catch (trouble) {
    clearTimeout(nextPanel);
    nextPanel = setTimeout(showPanel, PANEL_AGAIN);
    $("lamp").className = "lamp away";
    $("mode").textContent = trouble.status === 503 ? "DynamoDB is away" : "No answer";
    $("reason").textContent = trouble.status === 503 ? "requests are refused until it is back" : "";
    if ($("alert").hidden) {
      await explain(trouble, () => attempt(state ? () => get("/panel") : load));
      alertIsThePanels = true;
    }
    return;
  }
  if (alertIsThePanels) hideAlert();
  $("lamp").className = `lamp ${panel.mode}`;
  $("mode").textContent = panel.mode === "dynamodb" ? "DynamoDB" : "Memory";
  $("reason").textContent = panel.reason;
  $("fingerprint").textContent = panel.session ? `${panel.session}…` : "none";
  $("size").textContent = panel.session ? `${panel.size.toLocaleString("en")} bytes` : "–";
  $("lifetime").max = panel.lifetime;
  left = panel.expires_in;
  showExpiry();
  panel.late.forEach(noteLate);
  if (state && Boolean(state.player) !== panel.signed_in && !busy) await lookAgain().catch(() => {});
  if (!state && !busy) await attempt(load);
}

function showExpiry() {
  $("expires").textContent = left === null ? "–" : left >= DAY ? `${Math.round(left / DAY)} days` : hours(left);
  $("lifetime").value = left ?? 0;
}

function hours(seconds) {
  const clock = new Date(seconds * 1000).toISOString().slice(11, 19);
  return clock.replace(/^00:/, "");
}

// Only the demo's own DynamoDB can be stopped.
async function showSwitch(asked = get("/emulator")) {
  const { running } = await asked;
  $("outage").hidden = running === null;
  $("switch").textContent = running ? "Stop DynamoDB" : "Start DynamoDB";
  $("switch").value = running ? "" : "start";
}

function element(tag, classes, text) {
  const made = document.createElement(tag);
  if (classes) made.className = classes;
  if (text !== undefined) made.textContent = text;
  return made;
}

/* What a person can do. */

$("sign-in").onsubmit = (event) => {
  event.preventDefault();
  attempt(
    async () => {
      state = await post("/sign-in", { name: $("name").value, remember: $("remember").checked });
      forgive("name");
      show(null);
      $("picker").querySelector("h1").focus();
    },
    { field: "name" },
  );
};

$("own").onsubmit = (event) => {
  event.preventDefault();
  attempt(() => start({ question: $("question").value }), { field: "question" });
};

for (const field of fields) $(field).oninput = () => forgive(field);
for (const button of document.querySelectorAll(".vote")) {
  button.onclick = () => attempt(() => vote(button.dataset.corner));
}

$("hear").onclick = () => hear(current);
$("next").onclick = () => {
  show(null);
  $("picker").querySelector("h1").focus();
  scrollTo({ top: 0, behavior: "smooth" });
};
$("new-id").onclick = () =>
  attempt(async () => {
    state = await post("/new-id");
  });
// Each request reads the session, and then takes a while: both have read it before either saves.
$("cheer").onclick = () =>
  attempt(async () => {
    const said = await Promise.all(corners.map((corner) => post("/cheers", { corner }, { label: `/cheers ${corner}` })));
    const { cheers } = await get("/arena");
    const [one, other, kept] = [said[0].read, said[1].read, cheers].map(({ red, blue }) => `${red}\u00a0:\u00a0${blue}`);
    $("cheered").textContent = `One request read ${one} cheers, the other ${other}. Kept are ${kept}.`;
  });
$("switch").onclick = () => attempt(() => showSwitch(post("/emulator", { running: $("switch").value === "start" })));
$("end-others").onclick = () => attempt(() => end("/devices/end-others"));
$("sign-out").onclick = () =>
  attempt(async () => {
    state = await post("/sign-out");
    show(null);
    $("name").value = "";
    $("name").focus();
  });

setInterval(() => {
  if (left !== null && left > 0) left -= 1;
  showExpiry();
}, 1000);
setInterval(() => {
  if (!document.hidden) lookForDevices();
}, DEVICES_EVERY);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  showPanel();
  lookForDevices();
});

attempt(load);
