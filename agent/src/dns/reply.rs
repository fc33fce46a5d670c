//! From the bytes of a question to the bytes of an answer: what is wrong with a request, which zone it belongs
//! to, and how much of the answer fits.

use hickory_proto::{
    op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{DNSClass, Record},
};
use rand::seq::SliceRandom;

use super::{
    Names,
    zone::{self, Answer},
};

/// The largest datagram that is answered: what passes every network without fragments (DNS flag day 2020).
const MAX_UDP: usize = 1232;

/// Aliases of aliases that are followed within the cluster.
const MAX_ALIASES: usize = 8;

/// What is to be done with a request.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing: it is no request.
    Ignore,
    /// Answer with this.
    Reply(Message),
    /// Resolve `query` elsewhere and add what it brings to `reply`.
    Forward {
        /// The answer so far: the header, and aliases that lead to `query`.
        reply: Message,
        /// What to ask for.
        query: Query,
    },
}

/// Decides about one packet.
pub(super) fn consider(packet: &[u8], names: Option<&Names>) -> Step {
    let Ok(request) = Message::from_vec(packet) else { return undecodable(packet) };
    if request.metadata.message_type != MessageType::Query {
        return Step::Ignore;
    }
    let mut reply = begin(&request);
    if request.metadata.op_code != OpCode::Query {
        return refuse(reply, ResponseCode::NotImp);
    }
    if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return refuse(reply, ResponseCode::BADVERS);
    }
    let [query] = request.queries.as_slice() else { return refuse(reply, ResponseCode::FormErr) };
    if query.query_class() != DNSClass::IN {
        return refuse(reply, ResponseCode::Refused);
    }
    let Some(names) = names else { return refuse(reply, ResponseCode::ServFail) };
    let mut query = query.clone();
    for _ in 0..MAX_ALIASES {
        match names.answer(query.name(), query.query_type()) {
            Answer::Foreign => return Step::Forward { reply, query },
            Answer::Alias(target) => {
                reply.metadata.authoritative = true;
                reply.add_answer(zone::alias(query.name(), &target));
                query.set_name(target);
            }
            Answer::NoName => {
                reply.metadata.authoritative = true;
                reply.metadata.response_code = ResponseCode::NXDomain;
                reply.authorities.extend(names.soa());
                return Step::Reply(reply);
            }
            Answer::Found(mut records) => {
                // Clients take the first: each gets another.
                records.answers.shuffle(&mut rand::rng());
                reply.metadata.authoritative = true;
                if records.answers.is_empty() {
                    reply.authorities.extend(names.soa());
                }
                reply.add_answers(records.answers).add_additionals(records.additionals);
                return Step::Reply(reply);
            }
        }
    }
    refuse(reply, ResponseCode::ServFail)
}

/// Adds what another resolver said to a reply.
pub(super) fn complete(mut reply: Message, upstream: Option<&Message>) -> Message {
    let Some(upstream) = upstream else {
        // An alias of ours is worth telling even when its target cannot be resolved now.
        if reply.answers.is_empty() {
            reply.metadata.response_code = ResponseCode::ServFail;
        }
        return reply;
    };
    reply.metadata.response_code = upstream.metadata.response_code;
    reply.metadata.authentic_data = upstream.metadata.authentic_data && reply.answers.is_empty();
    reply.add_answers(upstream.answers.iter().cloned());
    reply.add_authorities(upstream.authorities.iter().cloned());
    reply.add_additionals(upstream.additionals.iter().cloned());
    reply
}

/// The bytes of a reply over a stream, which has room for everything a message can be.
pub(super) fn encode_stream(reply: &Message) -> Option<Vec<u8>> {
    fitting(reply, usize::from(u16::MAX))
}

/// The bytes of a reply to a datagram, cut to what the client takes.
pub(super) fn encode_datagram(reply: &Message, request: &[u8]) -> Option<Vec<u8>> {
    // Read again from the request: the reply's EDNS states our size, not the client's.
    let client = Message::from_vec(request).map_or(512, |request| usize::from(request.max_payload()));
    fitting(reply, client.clamp(512, MAX_UDP))
}

/// As much as fits: additional records are a courtesy and are left out in silence, answers are missed and their
/// absence is told, with which the client asks again over a stream.
fn fitting(reply: &Message, limit: usize) -> Option<Vec<u8>> {
    let whole = reply.to_vec().ok()?;
    if whole.len() <= limit {
        return Some(whole);
    }
    let mut cut = reply.clone();
    let additionals = std::mem::take(&mut cut.additionals);
    if cut.to_vec().ok()?.len() <= limit {
        return most(&mut cut, limit, &additionals, |cut| &mut cut.additionals);
    }
    cut.metadata.truncation = true;
    cut.authorities.clear();
    let answers = std::mem::take(&mut cut.answers);
    most(&mut cut, limit, &answers, |cut| &mut cut.answers)
}

/// The message with the longest beginning of `records` in a section that keeps it within the limit. The length grows
/// with the number of records, so that the search may halve.
fn most(
    message: &mut Message,
    limit: usize,
    records: &[Record],
    section: fn(&mut Message) -> &mut Vec<Record>,
) -> Option<Vec<u8>> {
    let mut with = |count: usize| {
        *section(message) = records.get(..count)?.to_vec();
        message.to_vec().ok()
    };
    let mut best = with(0)?;
    let (mut fits, mut too_many) = (0, records.len() + 1);
    while too_many - fits > 1 {
        let count = fits.midpoint(too_many);
        let bytes = with(count)?;
        if bytes.len() <= limit {
            (fits, best) = (count, bytes);
        } else {
            too_many = count;
        }
    }
    Some(best)
}

fn begin(request: &Message) -> Message {
    let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
    reply.metadata = Metadata::response_from_request(&request.metadata);
    reply.metadata.recursion_available = true;
    // The client's wish, which goes on to the resolver; the library leaves it out.
    reply.metadata.checking_disabled = request.metadata.checking_disabled;
    reply.add_queries(request.queries.iter().cloned());
    if let Some(theirs) = &request.edns {
        let mut ours = Edns::new();
        ours.set_max_payload(MAX_UDP as u16).set_dnssec_ok(theirs.flags().dnssec_ok);
        reply.set_edns(ours);
    }
    reply
}

fn refuse(mut reply: Message, code: ResponseCode) -> Step {
    reply.metadata.response_code = code;
    reply.answers = Vec::<Record>::new();
    Step::Reply(reply)
}

/// Tells the sender when there is a header to answer to and it is not itself an answer.
fn undecodable(packet: &[u8]) -> Step {
    match packet {
        [high, low, flags, _, ..] if packet.len() >= 12 && flags & 0x80 == 0 => {
            let id = u16::from_be_bytes([*high, *low]);
            Step::Reply(Message::error_msg(id, OpCode::Query, ResponseCode::FormErr))
        }
        _ => Step::Ignore,
    }
}
