//! The differences of two texts as upstream shows them: a unified diff of their lines, found as Python's `difflib`
//! finds them (what people see depends on which of several equal lines are taken for the same).

use std::{collections::HashMap, ops::Range};

/// Lines around a difference.
const CONTEXT: usize = 3;
/// From so many lines on, lines that come often are not taken to begin anything that is the same.
const MANY: usize = 200;

/// A stretch of lines of both texts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stretch {
    same: bool,
    old: Range<usize>,
    new: Range<usize>,
}

/// The unified diff of two lists of lines; empty when they are the same.
pub(in crate::kinds) fn unified(old: &[String], new: &[String]) -> String {
    let mut out = String::new();
    for group in groups(&stretches(old, new)) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        let range = |from: usize, to: usize| match to - from {
            1 => (from + 1).to_string(),
            // Of nothing, the line before.
            0 => format!("{from},0"),
            length => format!("{},{length}", from + 1),
        };
        let (before, after) = (range(first.old.start, last.old.end), range(first.new.start, last.new.end));
        out.push_str(&format!("@@ -{before} +{after} @@\n"));
        for stretch in group {
            let mut add = |mark: char, lines: &[String]| {
                for line in lines {
                    out.extend([mark]);
                    out.push_str(line);
                    out.push('\n');
                }
            };
            if stretch.same {
                add(' ', &old[stretch.old.clone()]);
            } else {
                add('-', &old[stretch.old.clone()]);
                add('+', &new[stretch.new.clone()]);
            }
        }
    }
    out
}

/// Both texts from their beginnings to their ends, what is the same in turn with what is not.
fn stretches(old: &[String], new: &[String]) -> Vec<Stretch> {
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, line) in new.iter().enumerate() {
        places.entry(line).or_default().push(index);
    }
    if new.len() >= MANY {
        places.retain(|_, lines| lines.len() <= new.len() / 100 + 1);
    }
    let mut blocks = Vec::new();
    blocks_of(old, new, 0..old.len(), 0..new.len(), &places, &mut blocks);
    blocks.push((old.len(), new.len(), 0));
    let (mut out, mut from): (Vec<Stretch>, _) = (Vec::new(), (0, 0));
    for (i, j, length) in blocks {
        if from.0 < i || from.1 < j {
            out.push(Stretch { same: false, old: from.0..i, new: from.1..j });
        }
        from = (i + length, j + length);
        match out.last_mut() {
            Some(last) if last.same && last.old.end == i && last.new.end == j => {
                (last.old.end, last.new.end) = from;
            }
            _ if length > 0 => out.push(Stretch { same: true, old: i..from.0, new: j..from.1 }),
            _ => {}
        }
    }
    out
}

type Block = (usize, usize, usize);

/// What is the same within two ranges: the longest block, and what is the same before and behind it.
fn blocks_of(
    old: &[String],
    new: &[String],
    i: Range<usize>,
    j: Range<usize>,
    places: &HashMap<&str, Vec<usize>>,
    out: &mut Vec<Block>,
) {
    let (at, to, length) = longest(old, new, &i, &j, places);
    if length == 0 {
        return;
    }
    if i.start < at && j.start < to {
        blocks_of(old, new, i.start..at, j.start..to, places, out);
    }
    out.push((at, to, length));
    if at + length < i.end && to + length < j.end {
        blocks_of(old, new, at + length..i.end, to + length..j.end, places, out);
    }
}

/// The longest block that begins with a line that does not come often, with the lines around it that are the same.
fn longest(
    old: &[String],
    new: &[String],
    i: &Range<usize>,
    j: &Range<usize>,
    places: &HashMap<&str, Vec<usize>>,
) -> Block {
    let (mut at, mut to, mut length) = (i.start, j.start, 0);
    // For each line of `new`, how long a block ends at it and at the line of `old` before.
    let mut ending: HashMap<usize, usize> = HashMap::new();
    for index in i.clone() {
        let mut now = HashMap::new();
        let here = places.get(old[index].as_str()).map_or(&[][..], Vec::as_slice);
        for place in here.iter().copied().filter(|place| j.contains(place)) {
            let size = place.checked_sub(1).and_then(|before| ending.get(&before)).copied().unwrap_or(0) + 1;
            now.insert(place, size);
            if size > length {
                (at, to, length) = (index + 1 - size, place + 1 - size, size);
            }
        }
        ending = now;
    }
    while at > i.start && to > j.start && old[at - 1] == new[to - 1] {
        (at, to, length) = (at - 1, to - 1, length + 1);
    }
    while at + length < i.end && to + length < j.end && old[at + length] == new[to + length] {
        length += 1;
    }
    (at, to, length)
}

/// What differs, with the lines around; differences that are near each other together.
fn groups(stretches: &[Stretch]) -> Vec<Vec<Stretch>> {
    let (mut out, mut group): (Vec<Vec<Stretch>>, Vec<Stretch>) = (Vec::new(), Vec::new());
    let last = stretches.len().saturating_sub(1);
    for (index, stretch) in stretches.iter().enumerate() {
        let head = |s: &Stretch| Stretch {
            same: true,
            old: s.old.start..s.old.end.min(s.old.start + CONTEXT),
            new: s.new.start..s.new.end.min(s.new.start + CONTEXT),
        };
        let tail = |s: &Stretch| Stretch {
            same: true,
            old: s.old.start.max(s.old.end.saturating_sub(CONTEXT))..s.old.end,
            new: s.new.start.max(s.new.end.saturating_sub(CONTEXT))..s.new.end,
        };
        match stretch.same {
            false => group.push(stretch.clone()),
            true if index == 0 => group.push(tail(stretch)),
            true if index == last => group.push(head(stretch)),
            true if stretch.old.len() > 2 * CONTEXT => {
                group.push(head(stretch));
                out.push(std::mem::replace(&mut group, vec![tail(stretch)]));
            }
            true => group.push(stretch.clone()),
        }
    }
    if group.iter().any(|stretch| !stretch.same) {
        out.push(group);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diff(old: &str, new: &str) -> String {
        let lines = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        unified(&lines(old), &lines(new))
    }

    #[test]
    fn differences_are_shown_as_pythons_difflib_shows_them() {
        for (old, new, expected) in [
            ("a b c", "a b c", ""),
            ("a b c", "a x c", "@@ -1,3 +1,3 @@\n a\n-b\n+x\n c\n"),
            ("a", "a b", "@@ -1 +1,2 @@\n a\n+b\n"),
            (
                "1 2 3 4 5 6 7 8 9 10",
                "0 1 2 3 4 5 6 7 8 9 x",
                "@@ -1,3 +1,4 @@\n+0\n 1\n 2\n 3\n@@ -7,4 +8,4 @@\n 7\n 8\n 9\n-10\n+x\n",
            ),
            ("q a b x c d", "a b y c d f", "@@ -1,6 +1,6 @@\n-q\n a\n b\n-x\n+y\n c\n d\n+f\n"),
        ] {
            assert_eq!(diff(old, new), expected, "{old} | {new}");
        }
    }
}
