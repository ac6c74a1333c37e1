// A squarified treemap (Bruls, Huizing, van Wijk, 2000), in plain elements.
'use strict';

// Places for areas, the largest first, in a rectangle: rows along its shorter side, each as square as it can be.
function squarify(items, x, y, width, height) {
  const all = sum(items.map((item) => item.size));
  const places = [];
  if (all <= 0 || width <= 0 || height <= 0) return places;
  const ratio = (width * height) / all;
  let [left, at] = [{ x, y, width, height }, 0];
  while (at < items.length) {
    const side = Math.min(left.width, left.height);
    const worst = (row, area) => {
      const square = area * area;
      return Math.max((side * side * row[0]) / square, square / (side * side * row[row.length - 1]));
    };
    const row = [];
    let area = 0;
    while (at + row.length < items.length) {
      const next = Math.max(items[at + row.length].size * ratio, 1e-9);
      if (row.length && worst([...row, next], area + next) > worst(row, area)) break;
      row.push(next);
      area += next;
    }
    const depth = side > 0 ? area / side : 0;
    let along = 0;
    row.forEach((one, n) => {
      const length = depth > 0 ? one / depth : 0;
      places.push(left.width >= left.height
        ? { item: items[at + n], x: left.x, y: left.y + along, width: depth, height: length }
        : { item: items[at + n], x: left.x + along, y: left.y, width: length, height: depth });
      along += length;
    });
    left = left.width >= left.height
      ? { ...left, x: left.x + depth, width: Math.max(0, left.width - depth) }
      : { ...left, y: left.y + depth, height: Math.max(0, left.height - depth) };
    at += row.length;
  }
  return places;
}

// So many tiles are drawn; what is smaller is one tile, which can be gone into.
const TILES = 120;
const REST = '…';

function most(items, number) {
  const sorted = [...items].filter((item) => item.size > 0).sort((a, b) => b.size - a.size || (a.name < b.name ? -1 : 1));
  if (sorted.length <= number) return sorted;
  const rest = sorted.slice(number - 1);
  const more = { name: `${rest.length} smaller`, id: REST, size: sum(rest.map((item) => item.size)), children: () => rest };
  return [...sorted.slice(0, number - 1), more];
}

// Draws the children of a node, and theirs inside; `open` is called with a child that is gone into.
function treemap(node, box, open) {
  const { clientWidth: width, clientHeight: height } = box;
  const px = (number) => `${Math.round(number * 10) / 10}px`;
  const at = ({ x, y, width: w, height: t }, gap) => ({
    left: px(x), top: px(y), width: px(Math.max(1, w - gap)), height: px(Math.max(1, t - gap)),
  });
  const tiles = squarify(most(node.children(), TILES), 0, 0, width, height).map((place, n) => {
    const { item } = place;
    const hasRoom = place.width > 44 && place.height > 20;
    const goes = Boolean(item.children);
    const inner = [];
    if (goes && place.width > 90 && place.height > 70) {
      const number = Math.min(160, Math.max(12, Math.floor((place.width * place.height) / 2500)));
      for (const child of squarify(most(item.children(), number), 5, 25, place.width - 12, place.height - 32)) {
        if (child.width < 4 || child.height < 4) continue;
        inner.push(h('span', { class: 'inner', style: at(child, 2) }, child.width > 60 && child.height > 18 ? child.item.name : null));
      }
    }
    return h('button', {
      type: 'button', class: `tile t${n % 8}${goes ? '' : ' leaf'}`, style: at(place, 2), title: `${item.name}: ${size(item.size)}`,
      'aria-label': `${item.name}, ${size(item.size)}, ${percent(item.size, node.size)}${goes ? '' : ', nothing below'}`,
      'aria-disabled': goes ? null : 'true', tabindex: n === 0 ? '0' : '-1', onclick: () => goes && open(item),
    }, hasRoom ? h('span', { class: 'label' }, h('span', { class: 'name' }, item.name), place.width > 150 ? h('span', { class: 'num' }, size(item.size)) : null) : null, inner);
  });
  box.replaceChildren(...tiles);
}

// The tile that lies nearest in the direction of an arrow key.
function neighbour(box, event) {
  const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  const now = document.activeElement;
  if (!way || !box.contains(now)) return;
  event.preventDefault();
  const middle = (tile) => [tile.offsetLeft + tile.offsetWidth / 2, tile.offsetTop + tile.offsetHeight / 2];
  const [x, y] = middle(now);
  let best = null;
  for (const other of box.children) {
    const [dx, dy] = [middle(other)[0] - x, middle(other)[1] - y];
    const [ahead, aside] = [dx * way[0] + dy * way[1], Math.abs(dx * way[1]) + Math.abs(dy * way[0])];
    if (other === now || ahead <= 1) continue;
    const far = ahead + 2 * aside;
    if (best === null || far < best[0]) best = [far, other];
  }
  if (!best) return;
  now.tabIndex = -1;
  best[1].tabIndex = 0;
  best[1].focus();
}
