//! Merging what an applier sets into the live value. Items of both lists keep the order of the applier's, items that
//! only the live list has keep their place among those, and all others follow what stands before them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::Value;

use super::typed::Shape;

/// The live value with all that `config` sets.
pub(super) fn merge(shape: Shape<'_>, live: Option<&Value>, config: &Value) -> Value {
    match (shape, live, config) {
        (Shape::Struct(_) | Shape::Map(_), Some(Value::Object(live)), Value::Object(config)) => {
            let mut out = live.clone();
            for (name, value) in config {
                out.insert(name.clone(), merge(shape.of_child(name), live.get(name), value));
            }
            Value::Object(out)
        }
        (Shape::Set | Shape::Keyed(..), Some(Value::Array(live)), Value::Array(config)) => {
            let merged = Lists::new(shape, live, config).merge();
            if merged.is_empty() { config.clone().into() } else { merged.into() }
        }
        // Nothing in a map or list of its own is no reason to drop what is there.
        (Shape::Struct(_) | Shape::Map(_), Some(Value::Object(live)), Value::Null) if !live.is_empty() => {
            live.clone().into()
        }
        (Shape::Set | Shape::Keyed(..), Some(Value::Array(live)), Value::Null) if !live.is_empty() => {
            live.clone().into()
        }
        _ => config.clone(),
    }
}

struct Lists<'v, 's> {
    shape: Shape<'s>,
    live: Vec<(String, &'v Value)>,
    config: Vec<(String, &'v Value)>,
}

impl<'v, 's> Lists<'v, 's> {
    fn new(shape: Shape<'s>, live: &'v [Value], config: &'v [Value]) -> Self {
        let steps = |list: &'v [Value]| {
            list.iter().filter_map(|item| Some((shape.step(item)?, item))).collect::<Vec<_>>()
        };
        Self { shape, live: steps(live), config: steps(config) }
    }

    fn merge(&self) -> Vec<Value> {
        let wanted: BTreeSet<&str> = self.config.iter().map(|(step, _)| step.as_str()).collect();
        let present = self.present();
        let in_both = |step: &&str| present.contains_key(step);
        // What both have and is still to come, in the order of the applier.
        let mut shared: VecDeque<&str> =
            self.config.iter().map(|(step, _)| step.as_str()).filter(in_both).collect();
        let mut done = BTreeSet::new();
        let mut out = Vec::with_capacity(self.live.len().max(self.config.len()));
        let (mut live, mut config) = (self.live.iter().peekable(), self.config.iter().peekable());
        loop {
            let here = live.peek().map(|(step, _)| step.as_str());
            let next = config.peek().map(|(step, _)| step.as_str());
            let take_config = match (here, next) {
                (None, None) => return out,
                (Some(here), next) if Some(here) == next => {
                    live.next();
                    true
                }
                (Some(here), _) if !wanted.contains(here) => {
                    out.extend(live.next().map(|(_, value)| (*value).clone()));
                    false
                }
                // Both have it, but its turn comes later.
                (Some(here), Some(_)) if shared.front().is_some_and(|first| *first != here) => {
                    live.next();
                    false
                }
                (Some(here), next) => {
                    if done.contains(here) {
                        live.next();
                    }
                    next.is_some()
                }
                (None, Some(_)) => true,
            };
            if let (true, Some((step, value))) = (take_config, if take_config { config.next() } else { None })
            {
                let old = present.get(step.as_str()).copied().flatten();
                out.push(merge(self.shape.of_item(), old, value));
                done.insert(step.as_str());
                if shared.front() == Some(&step.as_str()) {
                    shared.pop_front();
                }
            }
        }
    }

    /// The live items by step; `None` for several that cannot be told apart, which nothing is merged into.
    fn present(&self) -> BTreeMap<&str, Option<&'v Value>> {
        let mut out = BTreeMap::new();
        for (step, value) in &self.live {
            out.entry(step.as_str()).and_modify(|known| *known = None).or_insert(Some(*value));
        }
        out
    }
}
