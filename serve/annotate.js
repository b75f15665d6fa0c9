"use strict";
// The annotation page. Texts of rows are only ever set as textContent: they are an attacker's.
const $ = (id) => document.getElementById(id);
const LOOK_AGAIN_MS = 15000;
const DRAFT_MS = 600;
const page = {
  language: localStorage.getItem("garrison.language")
    || (navigator.language.startsWith("zh") ? "zh" : "en"),
  name: localStorage.getItem("garrison.name") || "",
  token: sessionStorage.getItem("garrison.token") || "",
  row: null, progress: null, said: ["", {}], busy: false, lastSign: Date.now(), draftTimer: 0,
};

function word(name, parts = {}) {
  const text = WORDS[page.language][name] ?? name;
  return text.replace(/\{(\w+)\}/g, (_, part) => parts[part]);
}

// ---- asking the desk

class Refusal extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

async function ask(path, body = {}) {
  const headers = { "Content-Type": "application/json" };
  if (page.token) headers.Authorization = `Bearer ${page.token}`;
  const asked = { annotator: page.name, key: page.row?.key ?? held(), ...body };
  const answer = await fetch(`api/${path}`, {
    method: "POST", headers, body: JSON.stringify(asked), signal: AbortSignal.timeout(20000),
  });
  if (answer.ok) return answer.json();
  const said = await answer.json().catch(() => null);
  throw new Refusal(answer.status, said?.error?.message ?? `HTTP ${answer.status}`);
}

async function turn(path, body, saying) {
  if (page.busy) return;
  page.busy = true;
  try {
    const key = page.row?.key;
    const said = await ask(path, body);
    trouble("");
    if (path === "label") forget(key);
    page.said = saying(said);
    show(said.row, said.progress);
  } catch (error) {
    await refused(error);
  } finally {
    page.busy = false;
  }
}

async function refused(error) {
  if (error.status === 401 || (error.status === 422 && !page.row)) {
    page.token = "";
    welcome(error.status === 401);
    return trouble(error.message);
  }
  if (error.status === 409 || error.status === 404) {
    forget(page.row?.key);
    page.row = null;
    page.said = ["taken", {}];
    try {
      const said = await ask("next", { key: "" });
      return show(said.row, said.progress);
    } catch (again) {
      error = again;
    }
  }
  trouble(word("lost", { why: error.message }));
}

const next = () => turn("next", {}, () => ["", {}]);
const skip = () => page.row && turn("skip", {}, () => ["skipped", {}]);
const undo = () => turn("undo", {}, (said) => [said.undone ? "undone" : "nothing", {}]);

function label(place) {
  const chosen = page.row?.options[place];
  if (!chosen) return;
  if ($("texts").classList.contains("veiled")) {
    page.said = ["first", {}];
    return speak();
  }
  clearTimeout(page.draftTimer);
  turn("label", { label: chosen, comment: $("comment").value }, (said) =>
    ["saved", { label: said.saved.label, judge: said.saved.judge_verdict }]);
}

// ---- drafts: here at once, and at the desk a moment later, which also keeps the row

const draftName = (key) => `garrison.draft.${page.name}.${key}`;
const heldName = () => `garrison.row.${page.name}`;
const held = () => localStorage.getItem(heldName()) || "";

function forget(key) {
  localStorage.removeItem(draftName(key));
  localStorage.removeItem(heldName());
}

function sign() {
  page.lastSign = Date.now();
}

async function keep() {
  const key = page.row?.key;
  if (!key) return;
  if (page.busy) return keepSoon();
  try {
    await ask("draft", { key, comment: $("comment").value });
    trouble("");
  } catch (error) {
    // Of a row that has been labelled meanwhile there is nothing to keep.
    if (page.row?.key === key && !page.busy) await refused(error);
  }
}

function keepSoon() {
  clearTimeout(page.draftTimer);
  page.draftTimer = setTimeout(keep, DRAFT_MS);
}

function drafted() {
  sign();
  localStorage.setItem(draftName(page.row.key), $("comment").value);
  keepSoon();
}

function watch() {
  const lease = (page.row?.lease_s ?? 900) * 1000;
  const isThere = !document.hidden && Date.now() - page.lastSign < lease;
  if (page.row && isThere) keep();
  setTimeout(watch, lease / 3);
}

// ---- showing

function show(row, progress) {
  const isNew = row?.key !== page.row?.key;
  page.row = row;
  page.progress = progress;
  $("welcome").hidden = true;
  $("work").hidden = !row;
  $("finished").hidden = !!row;
  if (row && isNew) {
    $("prompt").textContent = row.prompt;
    $("answer").textContent = row.answer;
    $("comment").value = localStorage.getItem(draftName(row.key)) ?? row.comment;
    // The page was gone before the desk had heard of it.
    if ($("comment").value !== row.comment) keepSoon();
    localStorage.setItem(heldName(), row.key);
    veil(true);
    scrollTo(0, 0);
  }
  if (!row) setTimeout(() => page.row || $("finished").hidden || next(), LOOK_AGAIN_MS);
  speak();
}

function veil(isVeiled) {
  $("texts").classList.toggle("veiled", isVeiled);
  for (const id of ["prompt", "answer"]) $(id).ariaHidden = String(isVeiled);
}

function speak() {
  document.documentElement.lang = page.language === "zh" ? "zh-CN" : "en";
  for (const one of document.querySelectorAll("[data-word]")) {
    one.textContent = word(one.dataset.word);
  }
  const [said, parts] = page.said;
  const words = Object.fromEntries(Object.entries(parts).map(([k, v]) => [k, word(v)]));
  $("said").textContent = said ? word(said, words) : "";
  $("who").textContent = page.name;
  if (page.row) {
    $("question").textContent = word(page.row.options.includes("safe") ? "asks" : "chooses");
    $("options").replaceChildren(...page.row.options.map(option));
  }
  if (page.progress) speakProgress(page.progress);
  $("keys").replaceChildren(...[["1 2 3 4", "key_label"], ["␣", "key_space"], ["u", "key_u"],
    ["n", "key_n"], ["c", "key_c"], ["l", "key_l"], ["?", "key_help"]].flatMap(([key, what]) => {
    const [term, meaning] = [document.createElement("dt"), document.createElement("dd")];
    term.append(kbd(key));
    meaning.textContent = word(what);
    return [term, meaning];
  }));
}

function speakProgress({ num_rows, num_done, num_mine, num_with_others, agreement }) {
  const { value, low, high } = agreement.fleiss;
  const digits = (number) => number.toFixed(2);
  const interval = low === null ? "" : ` [${digits(low)}, ${digits(high)}]`;
  const kappa = value === null ? word("untold") : digits(value) + interval;
  const agreed = word("agreement", { kappa, num: agreement.num_rows, tied: agreement.num_tied });
  $("progress").textContent = word("progress", { done: num_done, all: num_rows, mine: num_mine });
  $("kappa").textContent = agreement.num_rows ? `κ ${kappa} (${agreement.num_rows})` : "";
  $("kappa").title = agreed;
  $("agreement").textContent = agreed;
  $("waiting").textContent = num_with_others ? word("waiting", { num: num_with_others }) : "";
  $("bar").max = num_rows || 1;
  $("bar").value = num_done;
}

function kbd(text) {
  const key = document.createElement("kbd");
  key.textContent = text;
  return key;
}

function option(name, place) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(kbd(String(place + 1)), word(name));
  button.addEventListener("click", () => label(place));
  return button;
}

function trouble(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

function welcome(isTokenWanted) {
  page.row = null;
  for (const id of ["work", "finished"]) $(id).hidden = true;
  $("welcome").hidden = false;
  $("for-token").hidden = !isTokenWanted;
  $("name").value = page.name;
  speak();
  (page.name ? $("token") : $("name")).focus();
}

function switchLanguage() {
  page.language = page.language === "zh" ? "en" : "zh";
  localStorage.setItem("garrison.language", page.language);
  speak();
}

function help() {
  if ($("help").open) $("help").close();
  else $("help").showModal();
}

// ---- keys and clicks

function pressed(event) {
  sign();
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.target.matches("textarea, input")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.target.matches("button, summary") && [" ", "Enter"].includes(event.key)) return;
  // A key that is held down is one press: else it would label row after row unread.
  if (event.repeat) return;
  const actions = { u: undo, n: skip, l: switchLanguage, "?": help, c: () => $("comment").focus(),
    " ": () => veil(!$("texts").classList.contains("veiled")) };
  const action = /^[1-9]$/.test(event.key) ? () => label(Number(event.key) - 1)
    : actions[event.key.toLowerCase()];
  if (!action || ($("help").open && event.key !== "?")) return;
  if (!page.name && !["l", "?"].includes(event.key)) return;
  event.preventDefault();
  action();
}

function begun(event) {
  event.preventDefault();
  page.name = $("name").value.trim().replace(/\s+/g, " ");
  if (!page.name) return $("name").focus();
  localStorage.setItem("garrison.name", page.name);
  if ($("token").value) {
    page.token = $("token").value;
    sessionStorage.setItem("garrison.token", page.token);
  }
  $("name").blur();
  next();
}

document.addEventListener("keydown", pressed);
document.addEventListener("pointerdown", sign);
// A button that was clicked gives the keys back: else the space bar would press it again.
document.addEventListener("click", (event) => event.detail && event.target.closest("button")?.blur());
$("welcome").addEventListener("submit", begun);
$("texts").addEventListener("click", () => veil(false));
$("comment").addEventListener("input", drafted);
$("language").addEventListener("click", switchLanguage);
$("ask-help").addEventListener("click", help);
speak();
if (page.name) next();
else welcome(false);
setTimeout(watch, 5000);
