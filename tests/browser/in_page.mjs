// Functions that run inside a page, each complete in itself: playwright sends their source. They return plain values.

/** Every drawing and picture: is it there, in sight, whole, named, and can its words be read? */
export async function drawings() {
  for (const details of document.querySelectorAll("details")) details.open = true;
  const faults = [];
  const found = [...document.querySelectorAll("svg, img")].filter((one) => !one.parentElement.closest("svg"));
  for (const one of found) {
    const name = `${one.localName} ${one.id || one.getAttribute("src")?.slice(0, 60) || ""} at ${innerWidth} px`;
    const box = one.getBoundingClientRect();
    const inSight = one.checkVisibility({ opacityProperty: true, visibilityProperty: true });
    if (box.width < 16 || box.height < 16) faults.push(`${name} is ${box.width} x ${box.height}`);
    if (!inSight) faults.push(`${name} is not visible`);
    if (one.localName === "img" && !(one.complete && one.naturalWidth)) faults.push(`${name} is broken`);
    if (one.localName !== "svg") continue;
    const drawn = one.getBBox();
    if (!drawn.width || !drawn.height) faults.push(`${name} is empty`);
    for (const image of one.querySelectorAll("image")) {
      await image.decode().catch(() => faults.push(`${name} holds a broken picture`));
    }
    const small = [...one.querySelectorAll("text")]
      .map((text) => [parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a, text.textContent])
      .filter(([size]) => size && Math.abs(size) < 7.5);
    // On paper a point is a point, and 5.5 of them are read in print.
    const least = matchMedia("print").matches ? 5.5 : 7.5;
    const tiny = small.filter(([size]) => Math.abs(size) < least);
    if (tiny.length) faults.push(`${name} has words of ${tiny[0][0].toFixed(1)} px: ${tiny[0][1]}`);
  }
  return { count: found.length, faults };
}

/** What would be loaded from outside the file, whether or not the policy stopped it. */
export function references() {
  const found = [];
  for (const one of document.querySelectorAll("*")) {
    for (const { name, value } of one.attributes) {
      const loads = /^(src|srcset|data|poster|action|formaction|background|ping|manifest|(xlink:)?href)$/.test(name);
      const link = one.localName === "a" && name === "href";
      if (loads && !link && !/^(#|data:)/.test(value.trim())) found.push(`${one.localName} ${name}=${value.slice(0, 100)}`);
      if (/^on/.test(name)) found.push(`${one.localName} ${name}=${value.slice(0, 100)}`);
      const inStyle = value.match(/url\((?!["']?(#|data:))[^)]*\)/);
      if (inStyle) found.push(`${one.localName} ${name} holds ${inStyle[0].slice(0, 100)}`);
    }
    const sheet = one.localName === "style" && one.textContent.match(/@import[^;]*|url\((?!["']?(#|data:))[^)]*\)/);
    if (sheet) found.push(`style holds ${sheet[0].slice(0, 100)}`);
  }
  return found;
}

/** Every link: its protocol and where it leads, true for a part of this page that exists. */
export function links() {
  return [...document.querySelectorAll("a[href]")].map((one) => {
    const href = one.getAttribute("href");
    let url;
    try {
      url = new URL(href, location.href);
    } catch {
      return { href, protocol: "", target: false };
    }
    const here = url.href.split("#")[0] === location.href.split("#")[0];
    const part = here && (!url.hash || document.getElementById(decodeURIComponent(url.hash.slice(1))) !== null);
    return { href, protocol: url.protocol, target: here ? part : url.href.split(/[#?]/)[0] };
  });
}

/** Does the page scroll sideways, and what makes it? */
export function overflow() {
  const width = document.documentElement.clientWidth;
  const wanted = document.scrollingElement.scrollWidth;
  if (wanted <= innerWidth) return [];
  const scrolls = (one) => one && (getComputedStyle(one).overflowX !== "visible" || scrolls(one.parentElement));
  const guilty = [...document.body.querySelectorAll("*")]
    .filter((one) => one.getBoundingClientRect().left + one.scrollWidth > width + 1 && !scrolls(one))
    .filter((one, _, all) => !all.some((other) => other !== one && one.contains(other)))
    .slice(0, 3)
    .map((one) => `${one.localName}.${one.getAttribute("class")} ${one.id}`.trim());
  return [`the page is ${wanted} px wide on ${innerWidth} px: ${guilty.join(", ")}`];
}

/** Of a link of the contents that was followed: what is wrong with where it led, or nothing. */
export function covered(link) {
  const target = document.getElementById(decodeURIComponent(link.hash.slice(1)));
  if (!target) return `${link.hash} leads nowhere`;
  const nav = link.closest("nav").getBoundingClientRect();
  const heading = target.matches("h1, h2, h3") ? target : target.querySelector("h1, h2, h3");
  if (!heading) return `${link.hash} leads to a part without a heading`;
  const box = heading.getBoundingClientRect();
  if (box.top < nav.bottom - 1 && box.bottom > nav.top) return `the heading of ${link.hash} lies under the contents`;
  if (box.top < 0 || box.top > innerHeight) return `${link.hash} leads out of sight of its heading`;
  return null;
}

/** Mark what the Tab key must reach, and return it. */
export function markFocusable() {
  const usable = "a[href], button, input, select, textarea, summary, [tabindex='0']";
  const found = [...document.querySelectorAll(usable)].filter((one) => one.checkVisibility() && !one.disabled);
  return found.map((one, i) => {
    one.dataset.mark = i;
    const name = `${one.localName} ${(one.textContent || one.getAttribute("aria-label") || "").trim().slice(0, 40)}`;
    return { mark: String(i), name, skip: one.localName === "a" && one === document.body.querySelector("a") };
  });
}

/** Where the focus is, and what is wrong with how it shows. */
export function focused() {
  const one = document.activeElement;
  if (!one || one === document.body) return { mark: null, fault: null };
  const name = `${one.localName} ${(one.textContent || "").trim().slice(0, 40)}`;
  const box = one.getBoundingClientRect();
  const style = getComputedStyle(one);
  let fault = null;
  if (style.outlineStyle === "none" || !parseFloat(style.outlineWidth)) fault = `${name} has no visible focus`;
  if (box.right <= 0 || box.bottom <= 0 || box.left >= innerWidth || box.top >= innerHeight) fault = `${name} is out of sight`;
  const nav = document.querySelector("nav.contents");
  const bar = nav && !nav.contains(one) && getComputedStyle(nav).position === "sticky" && nav.getBoundingClientRect();
  const skip = style.position === "absolute" || style.position === "fixed";
  if (bar && !skip && box.top >= bar.top && box.bottom <= bar.bottom) fault = `${name} lies under the contents`;
  return { mark: one.dataset.mark ?? null, fault };
}

/** Of a sort button after it was used: is its column in order, and does the table say so? */
export function unsorted(button, way) {
  const head = button.closest("th");
  const table = button.closest("table");
  const name = `column ${head.textContent.trim()}`;
  const sorted = [...table.tHead.rows[0].cells].filter((cell) => cell.hasAttribute("aria-sort"));
  if (sorted.length !== 1 || sorted[0] !== head || head.getAttribute("aria-sort") !== way) {
    return `${name} is not announced as ${way}`;
  }
  const texts = [...table.tBodies[0].rows].map((row) => row.cells[head.cellIndex].textContent.trim());
  const present = texts.filter((text) => text !== "" && text !== "–");
  if (texts.slice(present.length).some((text) => text !== "" && text !== "–")) return `${name}: missing values are not last`;
  const numbers = present.map((text) => parseFloat(text.replace("−", "-").replaceAll(",", "")));
  const sign = way === "ascending" ? 1 : -1;
  const ordered = (values, less) => values.every((one, i) => i === 0 || sign * less(values[i - 1], one) <= 0);
  const others = present.filter((_, i) => Number.isNaN(numbers[i]));
  const right =
    ordered(numbers.filter((one) => !Number.isNaN(one)), (a, b) => a - b) &&
    ordered(others, (a, b) => a.localeCompare(b, "en", { numeric: true })) &&
    numbers.every((one, i) => i === 0 || Number.isNaN(one) || !Number.isNaN(numbers[i - 1]));
  return right ? null : `${name} is not ${way}: ${present.slice(0, 5).join(", ")}`;
}

/** Of a filter: how many rows there are, a word of the last one, and how many rows hold that word. */
export function wordToFilter(input) {
  const rows = [...document.getElementById(input.dataset.filters).tBodies[0].rows];
  const word = rows.at(-1)?.cells[0].textContent.trim().split(/\s+/)[0] ?? "";
  const holds = (row) => row.textContent.toLowerCase().includes(word.toLowerCase());
  return { all: rows.length, word, hits: rows.filter(holds).length };
}

/** Of a filter: how many rows of its table are in sight. */
export function shownRows(input) {
  const rows = [...document.getElementById(input.dataset.filters).tBodies[0].rows];
  return rows.filter((row) => row.checkVisibility()).length;
}

/** The page's words, as they stand in the file. */
export function words() {
  return document.body.textContent.replace(/\s+/g, " ").trim();
}

/** Words of drawings that stand out too little from the paper; axe-core does not look into drawings. */
export function faint() {
  const channels = (colour) => colour.match(/[\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = channels(colour).map((one) => (one / 255 <= 0.04045 ? one / 3294.6 : ((one / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const background = getComputedStyle(document.body).backgroundColor;
  const paper = light(channels(background)[3] === 0 ? "rgb(255, 255, 255)" : background);
  const scheme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const faults = [];
  for (const svg of document.querySelectorAll("svg")) {
    const images = [...svg.querySelectorAll("image")].map((one) => one.getBoundingClientRect());
    for (const text of svg.querySelectorAll("text")) {
      const box = text.getBoundingClientRect();
      const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
      // On a picture the paper is not what the words stand on.
      if (images.some((one) => x > one.left && x < one.right && y > one.top && y < one.bottom)) continue;
      const ink = light(getComputedStyle(text).fill);
      const contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
      if (contrast < 4.5) faults.push(`${scheme}: "${text.textContent.slice(0, 40)}" in ${svg.id} has ${contrast.toFixed(1)} : 1`);
    }
  }
  return faults.slice(0, 10);
}

/** Shapes that are plain black also in the dark: most likely a colour that was not named. */
export function black() {
  const found = [];
  for (const svg of document.querySelectorAll("svg")) {
    const shapes = [...svg.querySelectorAll("path, rect, circle, line, polygon, use")].filter((one) => !one.closest("defs"));
    const dark = shapes.filter((one) => {
      const style = getComputedStyle(one);
      return [style.fill, style.stroke].includes("rgb(0, 0, 0)");
    });
    if (dark.length) found.push(`${svg.id} has ${dark.length} black shapes`);
  }
  return found;
}

/** Everything in sight, and no watermark, over which axe-core cannot tell a contrast: test_page.py computes that one. */
export function prepareForAxe() {
  for (const details of document.querySelectorAll("details")) details.open = true;
  for (const one of document.querySelectorAll(".watermark")) one.remove();
}
