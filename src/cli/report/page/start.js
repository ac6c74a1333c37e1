// The views by their links, the search, and the keys.
'use strict';

let draw = null;
let after = null;
let drawn = null;

function render() {
  const parts = location.hash.slice(1).split('/').map((part) => {
    try { return decodeURIComponent(part); } catch { return part; }
  });
  const name = Object.hasOwn(views, parts[0]) && document.querySelector(`nav.views a[href="#${parts[0]}"]`) ? parts[0] : 'stack';
  const had = document.activeElement;
  const inView = view.contains(had);
  draw = null;
  view.replaceChildren(...add(document.createDocumentFragment(), [views[name](parts.slice(1))]).childNodes);
  view.dataset.view = name;
  for (const tab of document.querySelectorAll('nav.views a')) {
    if (tab.getAttribute('href') === `#${name}`) tab.setAttribute('aria-current', 'page');
    else tab.removeAttribute('aria-current');
  }
  if (draw) draw();
  const title = view.querySelector('h2');
  document.title = `${title.textContent} – ${show(data.title)}`;
  // Who was in the view stays in it; who follows a link gets its beginning.
  if (after === 'tile' && view.querySelector('.tile')) view.querySelector('.tile').focus();
  else if (inView && name === 'stack' && view.querySelector('.row[aria-pressed=true]')) view.querySelector('.row[aria-pressed=true]').focus({ preventScroll: true });
  else if (drawn !== null && (inView || had === document.body)) title.focus({ preventScroll: true });
  if (drawn !== null && drawn !== name) scrollTo(0, 0);
  if (drawn !== null) say(title.textContent);
  [drawn, after] = [name, null];
}

const input = document.getElementById('search');
const found = document.getElementById('found');
let chosen = -1;

// What is searched: names of images, layers, store paths, and files with their directories.
function* everything() {
  for (const image of images) yield ['image', key(image), link('files', 'image', key(image)), image.size, image.ref];
  for (const path of paths) yield ['store path', path.name, link('why', path.base), path.own, path.base];
  for (const layer of layers) yield ['layer', layerName(layer), link('stack', short(layer.digest)), layer.size, layer.digest];
  function* below(entries, words, ids) {
    for (const [name, inside] of entries) {
      if (typeof name === 'number') continue;
      const isFile = typeof inside === 'number';
      yield ['file', `${words}/${name}`, link('files', ...ids, ...(isFile ? [] : [name])), sizeOf(inside), ''];
      if (!isFile) yield* below(inside, `${words}/${name}`, [...ids, name]);
    }
  }
  for (const [index, tree] of data.trees.entries()) {
    if (Array.isArray(tree)) yield* below(tree, paths[index].name, ['all', 'all', paths[index].base]);
  }
  for (const layer of layers) if (layer.tree) yield* below(layer.tree, '', ['layer', short(layer.digest)]);
}

function search() {
  const words = input.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
  chosen = -1;
  input.removeAttribute('aria-activedescendant');
  if (!words.length) return close();
  const hits = [];
  for (const hit of everything()) {
    const [, name, , , more] = hit;
    const [own, all] = [name.toLowerCase(), `${name} ${more}`.toLowerCase()];
    if (!words.every((word) => all.includes(word))) continue;
    hits.push([own === words[0] ? 0 : own.startsWith(words[0]) ? 1 : 2, hits.length, hit]);
    if (hits.length > 2000) break;
  }
  const RANK = { image: 0, 'store path': 0, layer: 1, file: 2 };
  hits.sort((a, b) => RANK[a[2][0]] - RANK[b[2][0]] || a[0] - b[0] || a[1] - b[1]);
  found.replaceChildren(...hits.slice(0, 12).map(([, , [kind, name, href, bytes]], n) => h('li', { role: 'option', id: `found-${n}`, 'aria-selected': 'false', 'data-href': href, onpointerdown: (event) => { event.preventDefault(); open(n); } },
    h('span', { class: 'what' }, kind), h('span', { class: 'name' }, name), h('span', { class: 'num' }, size(bytes)))));
  if (!hits.length) found.replaceChildren(h('li', { class: 'nothing' }, `Nothing is called “${input.value.trim()}”.`));
  found.hidden = false;
  input.setAttribute('aria-expanded', 'true');
  say(hits.length ? `${Math.min(hits.length, 12)} shown` : 'Nothing found');
}

function close() {
  found.hidden = true;
  input.setAttribute('aria-expanded', 'false');
}

function open(n) {
  const option = found.children[n];
  if (!option || !option.dataset.href) return;
  close();
  input.value = '';
  input.blur();
  location.hash = option.dataset.href;
}

input.addEventListener('input', search);
input.addEventListener('focus', () => input.value && search());
input.addEventListener('blur', close);
input.addEventListener('keydown', (event) => {
  const options = [...found.querySelectorAll('[role=option]')];
  if (event.key === 'Escape') { input.value = ''; close(); input.blur(); }
  if (event.key === 'Enter') { event.preventDefault(); open(Math.max(0, chosen)); }
  if (event.key !== 'ArrowDown' && event.key !== 'ArrowUp' || !options.length) return;
  event.preventDefault();
  chosen = (chosen + (event.key === 'ArrowDown' ? 1 : options.length - 1 + (chosen < 0 ? 1 : 0))) % options.length;
  options.forEach((option, n) => option.setAttribute('aria-selected', String(n === chosen)));
  options[chosen].scrollIntoView({ block: 'nearest' });
  input.setAttribute('aria-activedescendant', options[chosen].id);
});

document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest('input, select, textarea')) return;
  const tabs = [...document.querySelectorAll('nav.views a')];
  if (event.key === '/') { event.preventDefault(); input.focus(); }
  const number = Number(event.key);
  if (number >= 1 && number <= tabs.length) location.hash = tabs[number - 1].getAttribute('href');
});

let waiting = 0;
addEventListener('resize', () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(() => draw && draw()); });
addEventListener('hashchange', render);
render();
