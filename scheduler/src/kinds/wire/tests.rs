//! What clients send in protobuf, and that every type survives it.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{encode::encode as wire_encode, *};
use crate::kinds::schema::{Definition, ObjectType, Presence, complete};

/// One length-delimited field; everything here is shorter than 128 bytes.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap();
    [&[number << 3 | 2, length], content].concat()
}

fn envelope(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [field(1, version.as_bytes()), field(2, kind.as_bytes())].concat();
    [MAGIC, &field(1, &meta), &field(2, raw), &field(3, b""), &field(4, b"")].concat()
}

#[test]
fn a_namespace_as_kubectl_sends_it() {
    let metadata = [field(1, b"shop"), field(2, b""), field(8, b""), vec![7 << 3, 0]].concat();
    let raw = [field(1, &metadata), field(2, b""), field(3, &field(1, b""))].concat();
    let expected = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}, "spec": {},
        "status": {}});
    assert_eq!(decode(&envelope("v1", "Namespace", &raw)).unwrap(), expected);
}

#[test]
fn maps_bytes_inline_structs_and_choices_of_zero() {
    let entry = [field(1, b"key"), field(2, &[0xff, 0])].concat();
    let raw = field(2, &entry);
    assert_eq!(decode(&envelope("v1", "Secret", &raw)).unwrap()["data"], json!({"key": "/wA="}));
    // A volume's source stands inline in JSON; Deployment.spec.replicas of 0 is not absence.
    let volume = [field(1, b"v"), field(2, &field(2, b""))].concat();
    let spec = field(3, &field(2, &field(1, &volume)));
    let raw = field(2, &[vec![1 << 3, 0], spec].concat());
    let deployment = decode(&envelope("apps/v1", "Deployment", &raw)).unwrap();
    assert_eq!(deployment["spec"]["replicas"], 0);
    assert_eq!(deployment["spec"]["template"]["spec"]["volumes"], json!([{"name": "v", "emptyDir": {}}]));
}

#[test]
fn what_is_not_an_object_is_refused() {
    assert_eq!(decode(b"{}"), Err(WireError::Prefix));
    assert!(matches!(decode(&envelope("v9", "Pod", b"")), Err(WireError::UnknownKind { .. })));
    assert!(matches!(decode(&envelope("v1", "Pod", &[10, 100, 1])), Err(WireError::Malformed(_))));
}

proptest! {
    #[test]
    fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        let _ = decode(&envelope("v1", "Pod", &bytes));
        let _ = decode(&bytes);
    }
}

/// A value as Go's encoder writes it: fields that are no pointers always, the others when they are set.
fn encode(numbers: &str, definition: &Definition, object: &Map<String, Value>) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, place) in &NUMBERS[numbers] {
        match place {
            Place::Inline(inner) => bytes_field(*number, &encode(inner, definition, object), &mut out),
            Place::Field(name) => {
                let Some(field) = definition.fields.get(*name) else { continue };
                let value = object.get(*name).filter(|value| !value.is_null()).cloned();
                let zero = match (&field.presence, &field.ty) {
                    (Presence::Optional | Presence::Shown(Value::Null), ty) if !is_time(ty) => None,
                    (Presence::Optional, _) => None,
                    (_, Type::String) => Some(json!("")),
                    (_, Type::Quantity) => Some(json!("0")),
                    (_, Type::Boolean) => Some(json!(false)),
                    (_, Type::Object(_)) => Some(json!({})),
                    (_, Type::Time | Type::MicroTime) => Some(Value::Null),
                    (_, Type::List(_) | Type::Map(_) | Type::Any | Type::Bytes) => None,
                    _ => Some(json!(0)),
                };
                if let Some(value) = value.or(zero) {
                    encode_field(*number, &field.ty, &value, &mut out);
                }
            }
        }
    }
    out
}

fn is_time(ty: &Type) -> bool {
    matches!(ty, Type::Time | Type::MicroTime)
}

fn encode_field(number: u32, ty: &Type, value: &Value, out: &mut Vec<u8>) {
    match (ty, value) {
        (Type::List(item), Value::Array(list)) => {
            list.iter().for_each(|value| encode_field(number, item, value, out));
        }
        (Type::Map(item), Value::Object(map)) => {
            for (name, value) in map {
                let mut entry = Vec::new();
                bytes_field(1, name.as_bytes(), &mut entry);
                if let Type::List(_) = **item {
                    let mut own = Vec::new();
                    encode_field(1, item, value, &mut own);
                    bytes_field(2, &own, &mut entry);
                } else {
                    encode_field(2, item, value, &mut entry);
                }
                bytes_field(number, &entry, out);
            }
        }
        (Type::Int32 | Type::Int64, value) => {
            number_field(number, value.as_i64().unwrap().cast_unsigned(), out);
        }
        (Type::Boolean, value) => number_field(number, u64::from(value.as_bool().unwrap()), out),
        (Type::Number, value) => {
            prost::encoding::double::encode(number, &value.as_f64().unwrap(), out);
        }
        (ty, value) => bytes_field(number, &encode_bytes(ty, value), out),
    }
}

fn encode_bytes(ty: &Type, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    match (ty, value) {
        (Type::String, Value::String(text)) => out.extend(text.bytes()),
        (Type::Bytes, Value::String(text)) => out = STANDARD.decode(text).unwrap(),
        (Type::Quantity, Value::String(text)) => bytes_field(1, text.as_bytes(), &mut out),
        (Type::Any, value) => bytes_field(1, value.to_string().as_bytes(), &mut out),
        (Type::Time | Type::MicroTime, Value::String(text)) => {
            let time: jiff::Timestamp = text.parse().unwrap();
            let whole = time.as_second() - i64::from(time.subsec_nanosecond() < 0);
            let nanos = time.as_nanosecond() - i128::from(whole) * 1_000_000_000;
            number_field(1, whole.cast_unsigned(), &mut out);
            number_field(2, u64::try_from(nanos).unwrap(), &mut out);
        }
        (Type::IntOrString, value) => {
            number_field(1, u64::from(value.is_string()), &mut out);
            number_field(2, value.as_i64().unwrap_or_default().cast_unsigned(), &mut out);
            bytes_field(3, value.as_str().unwrap_or_default().as_bytes(), &mut out);
        }
        (Type::Object(of), Value::Object(map)) => {
            if let Some(definition) = of.definition() {
                out = encode(of.name(), definition, map);
            }
        }
        _ => {}
    }
    out
}

fn number_field(number: u32, value: u64, out: &mut Vec<u8>) {
    prost::encoding::encode_key(number, WireType::Varint, out);
    prost::encoding::encode_varint(value, out);
}

fn bytes_field(number: u32, content: &[u8], out: &mut Vec<u8>) {
    prost::encoding::encode_key(number, WireType::LengthDelimited, out);
    prost::encoding::encode_varint(content.len() as u64, out);
    out.extend(content);
}

/// Any value of a type; `choose` gives numbers below its argument.
fn any_value(ty: &Type, depth: u32, choose: &mut dyn FnMut(usize) -> usize) -> Value {
    const TIMES: [&str; 4] =
        ["1969-12-31T23:59:59", "1970-01-01T00:00:00", "2026-01-02T03:04:05", "1066-10-14T09:00:00"];
    match ty {
        Type::String => ["", "a"][choose(2)].into(),
        Type::Bytes => ["AA==", "eA=="][choose(2)].into(),
        Type::Quantity => ["0", "1", "100m"][choose(3)].into(),
        Type::Boolean => (choose(2) == 1).into(),
        Type::Int32 | Type::Int64 => [0, 1, -1][choose(3)].into(),
        Type::Number => [0.0, 1.5][choose(2)].into(),
        Type::IntOrString => [json!(0), json!(80), json!("25%"), json!("")][choose(4)].clone(),
        Type::Time => format!("{}Z", TIMES[choose(4)]).into(),
        Type::MicroTime => format!("{}.{}Z", TIMES[choose(4)], ["000000", "000001"][choose(2)]).into(),
        Type::Any => json!({"f:a": {}}),
        Type::List(item) => (0..=choose(2)).map(|_| any_value(item, depth, choose)).collect(),
        Type::Map(item) => json!({ "k": any_value(item, depth, choose) }),
        Type::Object(of) => match of.definition() {
            Some(_) if depth > 0 => any_object(of.name(), depth - 1, choose),
            _ => json!({}),
        },
    }
}

/// Any object of a type; its own kind and version are not on the wire.
fn any_object(name: &str, depth: u32, choose: &mut dyn FnMut(usize) -> usize) -> Value {
    let (mut object, mut known) = (Map::new(), BTreeSet::new());
    numbered(name, &mut known);
    for (name, field) in &schema().definition(name).unwrap().fields {
        if choose(2) == 0 || !known.contains(name.as_str()) {
            continue;
        }
        let value = any_value(&field.ty, depth, choose);
        if !field.says_nothing(&value) {
            object.insert(name.clone(), value);
        }
    }
    object.into()
}

/// Every message of a type that is served whole: its own fields have numbers.
fn messages() -> Vec<(&'static str, &'static Definition)> {
    NUMBERS.keys().filter_map(|name| Some((*name, schema().definition(name)?))).collect()
}

#[test]
fn every_field_of_every_served_type_has_a_number() {
    let all: Vec<_> = messages();
    assert!(all.len() > 150, "{} types", all.len());
    for (name, definition) in all {
        let mut known = BTreeSet::new();
        numbered(name, &mut known);
        for field in definition.fields.keys().filter(|field| !matches!(field.as_str(), "apiVersion" | "kind"))
        {
            assert!(known.contains(field.as_str()), "{name} {field}");
        }
    }
}

fn numbered(message: &str, known: &mut BTreeSet<&'static str>) {
    for place in NUMBERS.get(message).into_iter().flat_map(BTreeMap::values) {
        match place {
            Place::Field(name) => drop(known.insert(name)),
            Place::Inline(inner) => numbered(inner, known),
        }
    }
}

#[test]
fn what_a_client_chose_survives_protobuf_in_every_type() {
    // Depends on nothing but the round: every type meets many of its values.
    for round in 1..40_usize {
        let mut state = round;
        let mut choose = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for (name, definition) in messages() {
            let mut expected = any_object(name, 2, &mut choose);
            let bytes = encode(name, definition, expected.as_object().unwrap());
            let mut object = Map::new();
            message(name, name, &bytes, &mut object, 0).unwrap();
            let mut found = Value::from(object);
            let ty = ObjectType::named(name.to_owned().into());
            complete(&ty, &mut expected);
            complete(&ty, &mut found);
            assert_eq!(found, expected, "{name}");
        }
    }
}

#[test]
fn zeros_that_say_something_are_kept() {
    // Lease: leaseTransitions 0, and a renewTime before 1970.
    let time = [vec![1 << 3], varint((-5_i64).cast_unsigned()), vec![2 << 3, 0]].concat();
    let spec = [vec![5 << 3, 0], field(4, &time)].concat();
    let lease = decode(&envelope("coordination.k8s.io/v1", "Lease", &field(2, &spec))).unwrap();
    assert_eq!(lease["spec"], json!({"leaseTransitions": 0, "renewTime": "1969-12-31T23:59:55.000000Z"}));
    // Deployment: maxUnavailable 0, beside which the zero of a plain field is dropped.
    let zero = [vec![1 << 3, 0, 2 << 3, 0], field(3, b"")].concat();
    let strategy = [field(1, b"RollingUpdate"), field(2, &field(1, &zero))].concat();
    let spec = [field(4, &strategy), vec![5 << 3, 0]].concat();
    let deployment = decode(&envelope("apps/v1", "Deployment", &field(2, &spec))).unwrap();
    let expected = json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0}}});
    assert_eq!(deployment["spec"], expected);
    // Pod: hostUsers false is a choice, hostNetwork false is none.
    let host_users = [varint(37 << 3), vec![0], vec![11 << 3, 0]].concat();
    let pod = decode(&envelope("v1", "Pod", &field(2, &host_users))).unwrap();
    assert_eq!(pod["spec"], json!({"hostUsers": false}));
}

fn varint(value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(value, &mut out);
    out
}

#[test]
fn an_event_of_a_watch_stands_in_no_envelope_of_its_own() {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let alone = wire_encode(&object).unwrap();
    assert!(alone.len() < 126, "short enough for lengths of one byte");
    let short = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap();
    let raw = [&[0x0a, short(&alone)][..], &alone].concat();
    let event = [b"\x0a\x05ADDED\x12", &[short(&raw)][..], &raw].concat();
    let frame = frame("ADDED", &object).unwrap();
    assert_eq!(frame, [&[0, 0, 0, short(&event)][..], &event].concat());
}
