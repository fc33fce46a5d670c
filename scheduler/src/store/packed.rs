//! Objects at rest. What is seldom read, and what only those see who were away, is held compressed with a dictionary of
//! what such objects have in common, which is nearly everything: a tenth to a twentieth of its bytes is left.
//!
//! In: objects that nobody is expected to ask for soon. Out: [`Held`], which gives each back as it was. Never: packs what
//! it did not read back, or looks inside an object.

use std::{
    borrow::Borrow,
    cell::RefCell,
    cmp::Ordering,
    collections::BTreeMap,
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    sync::Arc,
};

use bytes::Bytes;
use zstd::{
    bulk::Compressor,
    dict::{DecoderDictionary, EncoderDictionary},
    zstd_safe::{DCtx, compress_bound, get_frame_content_size},
};

use crate::model::{Fields, Key, Object, Paths, Resource, Revision};

/// How much is known that objects have in common. Twice of it packed nothing better.
const DICTIONARY_BYTES: usize = 16 << 10;
/// zstd's own default: the levels above take three times as long for a twentieth less.
const LEVEL: i32 = 3;
/// What is learned from: no larger objects, not more of them, and none in a crowd too small to have anything in common.
const SAMPLE_BYTES: usize = 16 << 10;
const SAMPLES: usize = 512;
const FEWEST_SAMPLES: usize = 64;
/// After so many objects it is learned again what they have in common, and then after four times as many, up to the other.
const LEARN_AGAIN: usize = 2048;
const LEARN_AT_LEAST: usize = 32_768;

/// An object in the image. In order of its key, and found by it.
#[derive(Clone, Debug)]
pub(super) enum Held {
    /// As it is read.
    Whole(Arc<Object>),
    /// At rest.
    Packed(Arc<Packed>),
}

impl Held {
    pub(super) fn key(&self) -> &Key {
        match self {
            Self::Whole(object) => &object.key,
            Self::Packed(packed) => &packed.key,
        }
    }

    pub(super) fn revision(&self) -> Revision {
        match self {
            Self::Whole(object) => object.revision,
            Self::Packed(packed) => packed.revision,
        }
    }

    /// The object, made anew where it is packed.
    pub(super) fn object(&self) -> Arc<Object> {
        self.clone().into_object()
    }

    /// The same of one that is not held any longer.
    pub(super) fn into_object(self) -> Arc<Object> {
        match self {
            Self::Whole(object) => object,
            Self::Packed(packed) => match packed.unpack() {
                Some(object) => Arc::new(object),
                None => unreachable!("{} was read back when it was packed", packed.key),
            },
        }
    }

    /// Whether it may be indexed by all of these; what is packed can tell so without being unpacked.
    pub(super) fn may_have(&self, marks: Marks) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Packed(packed) => packed.marks.0 & marks.0 == marks.0,
        }
    }

    /// Whether it is this very object.
    pub(super) fn is(&self, object: &Arc<Object>) -> bool {
        matches!(self, Self::Whole(held) if Arc::ptr_eq(held, object))
    }
}

impl Borrow<Key> for Held {
    fn borrow(&self) -> &Key {
        self.key()
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Held {}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(other.key())
    }
}

/// An object but for its bytes and its index, which are packed.
#[derive(Debug)]
pub(super) struct Packed {
    key: Key,
    revision: Revision,
    labels: Arc<BTreeMap<String, String>>,
    form: Arc<Form>,
    marks: Marks,
    bytes: Box<[u8]>,
}

/// What an object is indexed by leaves two of 64 bits each. Who lacks one of a value's does not have it; of those who do not
/// have it one in twelve has both (events, indexed by eleven), and of two values one in a hundred and fifty.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Marks(u64);

impl Marks {
    /// Of these paths and values.
    pub(super) fn of<'a>(values: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let marks = values.into_iter().map(|value| {
            let mut hasher = DefaultHasher::new();
            value.hash(&mut hasher);
            let hash = hasher.finish();
            1 << (hash & 63) | 1 << (hash >> 6 & 63)
        });
        Self(marks.fold(0, |all, mark| all | mark))
    }
}

/// What many packed objects have in common.
#[derive(Debug)]
struct Form {
    dictionary: Arc<Dictionary>,
    paths: Paths,
}

struct Dictionary(DecoderDictionary<'static>);

impl fmt::Debug for Dictionary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dictionary")
    }
}

thread_local! {
    /// It is larger than most of what it makes.
    static UNPACKING: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
}

impl Packed {
    fn unpack(&self) -> Option<Object> {
        let plain = self.form.dictionary.open(&self.bytes)?;
        let length = u32::from_le_bytes(*plain.last_chunk()?) as usize;
        let mut index = Index(plain.get(length..plain.len() - size_of::<u32>())?);
        let deleting = index.number()? != 0;
        let uid = index.text()?.into();
        let values: Option<Vec<_>> = self.form.paths.iter().map(|_| index.value()).collect();
        let fields = Fields::of(&self.form.paths, &values?);
        let owners = (0..index.number()?).map(|_| Some(index.text()?.into())).collect::<Option<_>>()?;
        let (key, revision, labels) = (self.key.clone(), self.revision, self.labels.clone());
        let json = Bytes::from(plain).slice(..length);
        Some(Object { key, uid, revision, labels, fields, owners, deleting, json })
    }
}

impl Dictionary {
    fn open(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let length = usize::try_from(get_frame_content_size(bytes).ok()??).ok()?;
        let mut plain = Vec::with_capacity(length);
        UNPACKING
            .with_borrow_mut(|context| context.decompress_using_ddict(&mut plain, bytes, self.0.as_ddict()))
            .ok()?;
        Some(plain)
    }
}

/// The object's JSON, then its index, then the length of the JSON.
fn plain(object: &Object) -> Option<Vec<u8>> {
    let length = u32::try_from(object.json.len()).ok()?;
    let mut out = Vec::with_capacity(object.json.len() + 256);
    out.extend_from_slice(&object.json);
    put_number(&mut out, object.deleting.into());
    put_text(&mut out, &object.uid);
    for value in object.fields.values() {
        match value {
            None => put_number(&mut out, 0),
            Some(value) => {
                put_number(&mut out, value.len() + 1);
                out.extend_from_slice(value.as_bytes());
            }
        }
    }
    put_number(&mut out, object.owners.len());
    object.owners.iter().for_each(|owner| put_text(&mut out, owner));
    out.extend_from_slice(&length.to_le_bytes());
    Some(out)
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_number(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// Seven bits to a byte, the lowest first; all but the last have the eighth.
fn put_number(out: &mut Vec<u8>, mut number: usize) {
    while number > 0x7f {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

/// Reads what was put.
struct Index<'a>(&'a [u8]);

impl<'a> Index<'a> {
    fn number(&mut self) -> Option<usize> {
        let mut number = 0;
        for shift in (0..usize::BITS).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn of_length(&mut self, length: usize) -> Option<&'a str> {
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = self.number()?;
        self.of_length(length)
    }

    /// A field's value, which may be absent.
    fn value(&mut self) -> Option<Option<&'a str>> {
        match self.number()?.checked_sub(1) {
            None => Some(None),
            Some(length) => self.of_length(length).map(Some),
        }
    }
}

/// Packs, and learns what there is in common from what it packs.
#[derive(Default)]
pub(super) struct Packer {
    /// Of these it learns nothing: what it learned outlives them.
    private: Vec<Resource>,
    learned: Option<Learned>,
    /// How many objects came since it learned, and how many that may be.
    since: usize,
    due: usize,
}

impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packer").field("since", &self.since).field("due", &self.due).finish_non_exhaustive()
    }
}

struct Learned {
    encoder: EncoderDictionary<'static>,
    dictionary: Arc<Dictionary>,
    forms: Vec<Arc<Form>>,
}

impl Packer {
    /// One that learns nothing of these resources.
    pub(super) fn new(private: Vec<Resource>) -> Self {
        Self { private, ..Self::default() }
    }

    /// Packs each; `None` where nothing would be won, or nothing is known yet.
    pub(super) fn pack(&mut self, objects: &[Arc<Object>]) -> Vec<Option<Held>> {
        let plain: Vec<Option<Vec<u8>>> = objects.iter().map(|object| plain(object)).collect();
        self.since += objects.len();
        if self.learned.is_none() || self.since >= self.due {
            self.learn(objects, &plain);
        }
        let Some(Learned { encoder, dictionary, forms }) = &mut self.learned else {
            return vec![None; objects.len()];
        };
        let Ok(mut compressor) = compressor(encoder) else { return vec![None; objects.len()] };
        let mut room = Vec::new();
        let pack = |(object, plain): (&Arc<Object>, &Option<Vec<u8>>)| {
            let plain = plain.as_ref()?;
            room.clear();
            room.reserve(compress_bound(plain.len()));
            compressor.compress_to_buffer(plain, &mut room).ok()?;
            let won = room.len() < plain.len() / 4 * 3 && dictionary.open(&room)? == *plain;
            won.then(|| {
                let form = form(forms, dictionary, object.fields.paths());
                let Object { key, revision, labels, .. } = &**object;
                let (key, revision, labels) = (key.clone(), *revision, labels.clone());
                let indexed = object.fields.paths().iter().zip(object.fields.values());
                let marks = Marks::of(indexed.filter_map(|(path, value)| Some((&**path, value?))));
                let bytes = room.as_slice().into();
                Held::Packed(Arc::new(Packed { key, revision, labels, form, marks, bytes }))
            })
        };
        objects.iter().zip(&plain).map(pack).collect()
    }

    fn learn(&mut self, objects: &[Arc<Object>], plain: &[Option<Vec<u8>>]) {
        let public = |object: &Object| !self.private.contains(&object.key.resource);
        let known = objects.iter().zip(plain).filter(|(object, _)| public(object));
        let samples =
            known.filter_map(|(_, plain)| plain.as_ref()).filter(|plain| plain.len() <= SAMPLE_BYTES);
        let samples: Vec<&Vec<u8>> = samples.take(SAMPLES).collect();
        if samples.len() < FEWEST_SAMPLES {
            return;
        }
        // Where there is nothing in common the next ones may have something.
        let Ok(learned) = zstd::dict::from_samples(&samples, DICTIONARY_BYTES) else { return };
        self.learned = Some(Learned {
            encoder: EncoderDictionary::copy(&learned, LEVEL),
            dictionary: Arc::new(Dictionary(DecoderDictionary::copy(&learned))),
            forms: Vec::new(),
        });
        self.since = 0;
        self.due = (self.due * 4).clamp(LEARN_AGAIN, LEARN_AT_LEAST);
    }
}

/// It says how long the plain bytes are, and nothing else that is known without it.
fn compressor<'a>(encoder: &'a EncoderDictionary<'static>) -> io::Result<Compressor<'a>> {
    let mut compressor = Compressor::with_prepared_dictionary(encoder)?;
    compressor.include_contentsize(true)?;
    compressor.include_checksum(false)?;
    compressor.include_dictid(false)?;
    Ok(compressor)
}

fn form(forms: &mut Vec<Arc<Form>>, dictionary: &Arc<Dictionary>, paths: &Paths) -> Arc<Form> {
    if let Some(known) = forms.iter().find(|form| form.paths == *paths) {
        return known.clone();
    }
    let form = Arc::new(Form { dictionary: dictionary.clone(), paths: paths.clone() });
    forms.push(form.clone());
    form
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::Draft;

    fn object(n: usize, resource: Resource, noise: &str) -> Arc<Object> {
        let owners: Vec<_> = (0..n % 3).map(|owner| json!({"uid": format!("owner-{owner}")})).collect();
        let name = format!("web-{n}");
        let mut value = json!({"kind": "Event", "apiVersion": "v1", "metadata": {"name": name, "uid": format!("{n:032x}"),
            "labels": {"app": format!("web-{}", n % 5)}, "ownerReferences": owners},
            "involvedObject": {"kind": "Pod", "name": name, "uid": format!("{:032x}", n * 7), "fieldPath": ""},
            "reason": "Started", "message": format!("Started container main{noise}"), "type": "Normal"});
        if n.is_multiple_of(4) {
            value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let paths: Paths =
            ["involvedObject.uid", "involvedObject.fieldPath", "reason", "absent"].map(Into::into).into();
        let key = Key::namespaced(resource, "default", &name);
        Arc::new(Draft::new(key, &value, &paths).unwrap().at(Revision(n as u64 + 1)))
    }

    #[test]
    fn what_is_packed_comes_back_as_it_was_and_takes_a_fraction() {
        let objects: Vec<_> = (0..600).map(|n| object(n, Resource::EVENTS, "")).collect();
        let held: Vec<Held> = Packer::default().pack(&objects).into_iter().map(Option::unwrap).collect();
        let bytes = held.iter().map(|held| match held {
            Held::Packed(packed) => packed.bytes.len(),
            Held::Whole(_) => panic!("whole"),
        });
        let (packed, plain) = (bytes.sum::<usize>(), objects.iter().map(|o| o.json.len()).sum::<usize>());
        assert!(packed * 4 < plain, "{packed} of {plain}");
        for (held, object) in held.iter().zip(&objects) {
            assert_eq!((held.key(), held.revision()), (&object.key, object.revision));
            let back = held.object();
            assert_eq!(
                (&back.uid, &back.owners, &back.fields),
                (&object.uid, &object.owners, &object.fields)
            );
            assert_eq!((&back.json, back.deleting), (&object.json, object.deleting));
            assert!(Arc::ptr_eq(&back.labels, &object.labels));
        }
        let longest = [0, 1, 127, 128, 300, 70_000].map(|length| "x".repeat(length));
        let mut out = Vec::new();
        longest.iter().for_each(|text| put_text(&mut out, text));
        let mut index = Index(&out);
        assert!(longest.iter().all(|text| index.text() == Some(text)) && index.text().is_none());
    }

    #[test]
    fn what_was_packed_earlier_is_read_after_more_was_learned() {
        let mut packer = Packer::default();
        let objects: Vec<_> = (0..LEARN_AGAIN + 600).map(|n| object(n, Resource::EVENTS, "")).collect();
        let held: Vec<_> = objects.chunks(300).flat_map(|objects| packer.pack(objects)).collect();
        let dictionaries = held.iter().map(|held| match held {
            Some(Held::Packed(packed)) => Arc::as_ptr(&packed.form.dictionary),
            _ => panic!("not packed"),
        });
        assert_eq!(dictionaries.collect::<std::collections::HashSet<_>>().len(), 2);
        assert!(held.iter().flatten().zip(&objects).all(|(held, object)| held.object().json == object.json));
    }

    #[test]
    fn nothing_is_learned_of_what_is_private_or_of_too_few_and_what_would_not_shrink_stays() {
        let of = |resource, count| (0..count).map(|n| object(n, resource, "")).collect::<Vec<_>>();
        let mut packer = Packer::new(vec![Resource::SECRETS]);
        let none = |held: Vec<Option<Held>>| held.iter().all(Option::is_none);
        assert!(none(packer.pack(&of(Resource::SECRETS, 600))));
        assert!(none(packer.pack(&of(Resource::EVENTS, FEWEST_SAMPLES - 1))));
        assert!(!none(packer.pack(&of(Resource::EVENTS, 600))));
        assert!(!none(packer.pack(&of(Resource::SECRETS, 1))), "they are packed with what others taught");
        let mut seed = 1_u64;
        let noise = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b' ' + 2 + (seed >> 40).to_le_bytes()[0] % 90)
        });
        let noise: String = noise.filter(|c| *c != '\\').take(20_000).collect();
        assert!(none(packer.pack(&[object(1, Resource::EVENTS, &noise)])));
    }
}
