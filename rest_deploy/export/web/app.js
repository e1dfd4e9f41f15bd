// The page: takes a picture, has it answered by a worker, and shows the answer. Texts of the record are text, never HTML.

const NAMES = { wasm: "WebAssembly", webgpu: "WebGPU" };
const TOP = 5; // as Predictor: where a softmax makes scores one of another's

const at = (id) => document.getElementById(id);
const say = (text, wrong = false) => {
  at("status").textContent = text;
  at("status").className = wrong ? "error" : "";
};

let page, worker, shown, saved;
let calls = 0; // messages of the worker that answer an earlier call are dropped

begin().catch((error) => say(`The page cannot start: ${error.message}`, true));

async function begin() {
  const response = await fetch("page.json").catch(() => { throw new Error("page.json cannot be fetched; is the server still there?"); });
  if (!response.ok) throw new Error(`page.json: the server answers ${response.status}; copy the whole folder to it`);
  page = await response.json();
  describe();
  for (const name of Object.keys(page.backends)) {
    const lacking = name === "webgpu" && !navigator.gpu;
    const text = NAMES[name] + (lacking ? " (not in this browser, or not on this address)" : "");
    at("backend").append(Object.assign(document.createElement("option"), { value: name, textContent: text, disabled: lacking }));
  }
  at("backend").value = Object.keys(page.backends)[0]; // browsers remember a choice, which was of another visit
  at("backend").addEventListener("change", start);
  at("stop").addEventListener("click", start); // a worker that computes can only be ended
  at("picture").addEventListener("change", (event) => take(event.target.files));
  document.addEventListener("paste", (event) => take(event.clipboardData.files));
  document.addEventListener("dragover", (event) => { event.preventDefault(); at("drop").classList.add("over"); });
  document.addEventListener("dragleave", () => at("drop").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    at("drop").classList.remove("over");
    take(event.dataTransfer.files);
  });
  start();
}

/** What the record says, and warnings, as rest-predict prints them. */
function describe() {
  at("title").textContent = document.title = `Classify a picture with ${page.record.model}`;
  at("warning").textContent = page.warning;
  at("warning").hidden = !page.warning;
  for (const [name, value] of Object.entries(page.told)) {
    at("told").append(
      Object.assign(document.createElement("dt"), { textContent: name }),
      Object.assign(document.createElement("dd"), { textContent: value }),
    );
  }
  at("whole").textContent = JSON.stringify(page.record, null, 2);
}

/** Start a worker anew, by what is chosen. */
function start() {
  const backend = at("backend").value;
  worker?.terminate();
  ready(false);
  at("threads").textContent = "";
  at("answer").hidden = true;
  say(`Loading the network into ${NAMES[backend]} ...`);
  // of a blob, so that it stands under this page's policy, as workers from a server do not
  const source = `import ${JSON.stringify(new URL("worker.js", location.href).href)};`;
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  worker = new Worker(url, { type: "module" });
  worker.onerror = (event) => failed(backend, event.message || "its worker cannot be loaded; copy the whole folder again");
  ask({ start: { folder: new URL("./", location.href).href, backend, told: page } }, ({ ready: opened, error }) => {
    URL.revokeObjectURL(url);
    if (error) return failed(backend, error);
    const threads = opened.threads === 1 ? "1 thread" : `${opened.threads} threads`;
    at("threads").textContent = backend === "wasm" ? `with ${threads}` : "";
    at("backend").disabled = false;
    ready(true);
    const checked = opened.difference === null
      ? "Its answers were not checked here: the record has no test picture."
      : `Its logits for the record's test picture are those of the export (${opened.difference.toExponential(1)} of the largest off).`;
    say(`Ready: ${NAMES[backend]}. ${checked}`);
  });
}

function failed(backend, why) {
  worker.terminate();
  ready(false);
  at("backend").disabled = false;
  const others = Object.keys(page.backends).filter((name) => name !== backend).map((name) => NAMES[name]);
  const instead = others.length ? `; choose ${others.join(" or ")} above, or load the page anew` : "; load the page anew";
  say(`${NAMES[backend]} cannot be used here: ${why}${instead}`, true);
}

function ready(whether) {
  at("picture").disabled = !whether;
  at("progress").hidden = at("stop").hidden = true;
}

/** Send a message to the worker; its answer goes to a function, unless something else was asked meanwhile. */
function ask(message, answered) {
  const id = ++calls;
  worker.onmessage = ({ data }) => {
    if (data.progress) {
      Object.assign(at("progress"), { hidden: false, max: data.progress.of, value: data.progress.done });
    } else if (data.id === id && id === calls) {
      at("progress").hidden = at("stop").hidden = true;
      answered(data);
    }
  };
  worker.postMessage({ id, ...message });
}

/** Answer a picture. */
function take(files) {
  if (!files.length) return;
  if (at("picture").disabled) return say("Wait until the network is loaded, or choose another way of computing.", true);
  const [file] = files;
  const name = file.name || "the picture";
  const others = files.length > 1 ? ` (the first of ${files.length}: one is answered at a time)` : "";
  at("answer").hidden = true;
  at("stop").hidden = false;
  say(`Computing ${name} ...`);
  ask({ picture: { file, name } }, ({ answer, error, spent }) => {
    if (error) {
      if (spent) failed(at("backend").value, error);
      else say(error, true);
      return;
    }
    show(file, name, answer);
    say(`Answered ${name}${others}.`);
  });
}

function show(file, name, answer) {
  const { activation, labels } = page.record;
  const logits = Array.from(answer.logits);
  const scores = scored(logits, activation);
  const order = logits.map((_, index) => index).sort((a, b) => logits[b] - logits[a]); // stable: ties by number
  const best = activation === "softmax" ? order.slice(0, TOP) : order;
  const predictions = best.map((index) => ({ label: labels ? labels[index] : `class ${index}`, index, score: scores[index] }));
  URL.revokeObjectURL(shown);
  shown = at("preview").src = URL.createObjectURL(file);
  at("answered").textContent = name;
  at("score").textContent = activation === "none" ? "Logit" : "Score";
  at("best").replaceChildren(...predictions.map((prediction) => row(prediction, activation)));
  const backend = at("backend").value;
  const ms = (time) => `${time.toFixed(time < 10 ? 1 : 0)} ms`;
  at("times").textContent = `${answer.width}x${answer.height} pixels; decoded in ${ms(answer.decode_ms)}, ` +
    `network ${ms(answer.network_ms)} by ${NAMES[backend]} ${at("threads").textContent}`.trimEnd();
  const { width, height, decode_ms, network_ms } = answer;
  const told = [{ image: name, predictions, logits, width, height, backend, decode_ms, network_ms }];
  at("json").textContent = JSON.stringify(told, null, 2);
  URL.revokeObjectURL(saved);
  saved = at("save").href = URL.createObjectURL(new Blob([at("json").textContent], { type: "application/json" }));
  at("answer").hidden = false;
}

function row({ label, score }, activation) {
  const line = document.createElement("tr");
  const [name, value] = ["th", "td"].map((kind) => line.appendChild(document.createElement(kind)));
  name.scope = "row";
  name.append(label);
  value.textContent = activation === "none" ? score.toFixed(4) : `${(100 * score).toFixed(2)}%`;
  if (activation !== "none") {
    const bar = Object.assign(document.createElement("meter"), { value: score });
    bar.setAttribute("aria-hidden", "true"); // its number stands beside it
    name.append(bar);
  }
  return line;
}

/** Logits to scores, as Predictor does, in float64. */
function scored(logits, activation) {
  if (activation === "none") return logits;
  if (activation === "sigmoid") return logits.map((logit) => 1 / (1 + Math.exp(-logit)));
  const largest = logits.reduce((a, b) => Math.max(a, b));
  const shares = logits.map((logit) => Math.exp(logit - largest));
  const all = shares.reduce((a, b) => a + b);
  return shares.map((share) => share / all);
}
