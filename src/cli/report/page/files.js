// What takes the space: store path → directory → file, of an image, of a layer, or of all.
'use strict';

// Files are [name, bytes], directories [name, [entries]], and [number, bytes] stands for so many files that are not listed.
const sizes = new Map();
function sizeOf(entries) {
  if (typeof entries === 'number') return entries;
  if (!sizes.has(entries)) sizes.set(entries, sum(entries.map(([, inside]) => sizeOf(inside))));
  return sizes.get(entries);
}

function fileNode([name, inside]) {
  if (typeof name === 'number') return { name: `${name} smaller file${name === 1 ? '' : 's'}`, size: inside };
  if (typeof inside === 'number') return { name, size: inside };
  return { name, size: sizeOf(inside), children: () => inside.map(fileNode) };
}

function pathNode(index) {
  const { name, base, own } = paths[index];
  const tree = data.trees[index];
  if (Array.isArray(tree)) return { name, id: base, path: index, size: sizeOf(tree), children: () => tree.map(fileNode) };
  return { name, id: base, path: index, size: tree || own || 0 };
}

function scopeNode(name, list, title) {
  const inside = new Set(list.flatMap((layer) => layer.paths));
  const others = list.filter((layer) => layer.tree || !layer.paths.length);
  const other = (layer) => (layer.tree
    ? { name: layerName(layer), id: short(layer.digest), size: sizeOf(layer.tree), children: () => layer.tree.map(fileNode) }
    : { name: layerName(layer), id: short(layer.digest), size: layer.size });
  const single = list.length === 1 && others.length === 1 && others[0].tree;
  const children = [...inside].map(pathNode).concat(single ? others[0].tree.map(fileNode) : others.map(other));
  return { name, title, size: sum(children.map((child) => child.size)), children: () => children };
}

function scopeOf([scope, id]) {
  const image = images.find((one) => scope === 'image' && key(one) === id);
  if (image) return [['image', id], scopeNode(key(image), image.layers.map((n) => layers[n]), `Image ${key(image)}`), image.layers.map((n) => layers[n])];
  const layer = layers.find((one) => scope === 'layer' && short(one.digest) === id);
  if (layer) return [['layer', id], scopeNode(layerName(layer), [layer], `Layer ${layerName(layer)}`), [layer]];
  return [['all', 'all'], scopeNode(data.title, layers, 'Everything, each layer once'), layers];
}

views.files = (parts) => {
  const [scope, root, list] = scopeOf(parts);
  const steps = [root];
  for (const part of parts.slice(2)) {
    const last = steps[steps.length - 1];
    const list = last.children ? last.children() : [];
    const next = list.find((child) => (child.id || child.name) === part) || most(list, TILES).find((child) => child.id === REST && part === REST);
    if (!next || !next.children) break;
    steps.push(next);
  }
  const now = steps[steps.length - 1];
  const ids = steps.slice(1).map((step) => step.id || step.name);
  const to = (n) => link('files', ...scope, ...ids.slice(0, n));
  const open = (child) => { after = 'tile'; go('files', ...scope, ...ids, child.id || child.name); };
  const up = () => { if (ids.length) { after = 'tile'; location.hash = to(ids.length - 1); } };
  const box = h('div', { class: 'map', role: 'group', 'aria-label': `Treemap of ${now.name}`, onkeydown: (event) => {
    if (event.key === 'Backspace' || event.key === 'Escape') { event.preventDefault(); up(); } else neighbour(box, event);
  } });
  const choose = (label, wanted, entries, first) => h('label', null, h('span', null, label), h('select', { onchange: (event) => go('files', ...event.target.value.split('/').map(decodeURIComponent)) },
    h('option', { value: 'all/all', selected: scope[0] !== wanted }, first),
    entries.map(([id, words]) => h('option', { value: `${wanted}/${encodeURIComponent(id)}`, selected: scope[0] === wanted && scope[1] === id }, words))));
  const crumbs = h('nav', { 'aria-label': 'Place in the treemap', class: 'crumbs' }, h('ol', null, steps.map((step, n) => h('li', null,
    n + 1 < steps.length ? h('a', { class: 'name', href: to(n) }, n ? step.name : step.title) : h('span', { class: 'name', 'aria-current': 'location' }, n ? step.name : step.title)))));
  const children = now.children().sort(by((child) => child.size));
  const name = (child) => (child.children ? h('a', { class: 'name', href: link('files', ...scope, ...ids, child.id || child.name) }, child.name) : h('span', { class: 'name' }, child.name));
  const missing = list.filter((layer) => layer.unlisted);
  const whole = now.size || 1;
  const here = steps.find((step) => step.path !== undefined);
  draw = () => treemap(now, box, open);
  return [h('div', { class: 'head' }, h('h2', { tabindex: '-1' }, 'What takes the space'),
    h('div', { class: 'choosers' },
      choose('Image', 'image', shown.concat(images.filter((image) => !shown.includes(image))).map((image) => [key(image), key(image)]), 'all images'),
      choose('Layer', 'layer', layers.map((layer) => [short(layer.digest), `${layerName(layer)} (${size(layer.size)})`]), 'all layers'))),
  crumbs,
  h('p', { class: 'muted' }, `${size(now.size)} in files. `, here ? [h('a', { href: link('why', here.id) }, `Why is ${here.name} here?`), ' '] : null, ids.length ? h('button', { type: 'button', class: 'small', onclick: up }, 'Up') : null),
  box,
  data.below > 0 ? h('p', { class: 'muted' }, `Files under ${size(data.below)} are not listed one by one, so that this page stays small: each directory says how many they are, and their bytes.`) : null,
  missing.length ? h('p', { class: 'note' }, `Not listed: ${missing.map((layer) => `${layerName(layer)} (${layer.unlisted})`).slice(0, 5).join('; ')}${missing.length > 5 ? ` and ${missing.length - 5} more layers` : ''}.`) : null,
  table(`What is in ${now.name}`, [
    ['Name', name, (child) => child.name],
    ['Size', (child) => size(child.size), (child) => child.size, 'num'],
    ['Share', (child) => percent(child.size, whole), (child) => child.size, 'num'],
    ['', (child) => bar(child.size, whole), null, 'bars'],
  ], children, { limit: 40 })];
};
