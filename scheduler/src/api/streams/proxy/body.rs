//! The body of an HTML page, held until its links are rewritten. What is larger than a page should be goes through as it
//! is: nothing is kept without bound.

use std::io::{self, Read, Write};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use flate2::{
    Compression,
    read::{DeflateDecoder, GzDecoder},
    write::{DeflateEncoder, GzEncoder},
};
use futures::StreamExt as _;
use http::{HeaderMap, header};

use super::links::Rewriter;

/// The largest page whose links are rewritten, packed and unpacked.
const MAX: usize = 16 << 20;

/// How a page is packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Packing {
    Plain,
    Gzip,
    Deflate,
}

/// Whether an answer is a page, and how it is packed.
fn packing(headers: &HeaderMap) -> Option<Packing> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = text(header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
    if media != "text/html" {
        return None;
    }
    match text(header::CONTENT_ENCODING) {
        "" => Some(Packing::Plain),
        "gzip" => Some(Packing::Gzip),
        "deflate" => Some(Packing::Deflate),
        // Not understood: the links stay.
        _ => None,
    }
}

/// The body, with links rewritten when it is a page.
pub(super) async fn rewritten(headers: &mut HeaderMap, body: Body, links: Rewriter) -> Body {
    let Some(packing) = packing(headers) else { return body };
    let mut chunks = body.into_data_stream();
    let mut page = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            // The client is to see that the page was cut off.
            Err(error) => return joined(page.freeze(), futures::stream::iter([Err(error)])),
        };
        page.extend_from_slice(&chunk);
        if page.len() > MAX {
            return joined(page.freeze(), chunks);
        }
    }
    let page = page.freeze();
    let raw = page.clone();
    // A large page takes long enough to delay other tasks of this thread.
    let work = tokio::task::spawn_blocking(move || repack(&raw, packing, &links));
    match work.await {
        Ok(Ok(Some(page))) => {
            headers.remove(header::CONTENT_LENGTH);
            Body::from(page)
        }
        Ok(Ok(None)) | Ok(Err(_)) | Err(_) => Body::from(page),
    }
}

fn joined(
    first: Bytes,
    rest: impl futures::Stream<Item = Result<Bytes, axum::Error>> + Send + 'static,
) -> Body {
    Body::from_stream(futures::stream::iter([Ok(first)]).chain(rest))
}

/// `None`: unpacked it is too large.
fn repack(page: &[u8], packing: Packing, links: &Rewriter) -> io::Result<Option<Vec<u8>>> {
    let unpacked = match packing {
        Packing::Plain => return Ok(Some(links.page(page))),
        Packing::Gzip => read(GzDecoder::new(page))?,
        Packing::Deflate => read(DeflateDecoder::new(page))?,
    };
    let Some(unpacked) = unpacked else { return Ok(None) };
    let page = links.page(&unpacked);
    if packing == Packing::Gzip {
        let mut out = GzEncoder::new(Vec::new(), Compression::fast());
        out.write_all(&page)?;
        return out.finish().map(Some);
    }
    let mut out = DeflateEncoder::new(Vec::new(), Compression::fast());
    out.write_all(&page)?;
    out.finish().map(Some)
}

fn read(from: impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut out = Vec::new();
    let limit = u64::try_from(MAX).unwrap_or(u64::MAX);
    from.take(limit + 1).read_to_end(&mut out)?;
    Ok((out.len() <= MAX).then_some(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn through(
        kind: &'static str,
        encoding: Option<&'static str>,
        body: Vec<u8>,
    ) -> (HeaderMap, Vec<u8>) {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
        headers.insert(header::CONTENT_LENGTH, body.len().into());
        if let Some(encoding) = encoding {
            headers.insert(header::CONTENT_ENCODING, encoding.parse().unwrap());
        }
        let links = Rewriter { prefix: "/p".into(), backend: "b".into(), asked: "a".into() };
        let body = rewritten(&mut headers, Body::from(body), links).await;
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        (headers, bytes.to_vec())
    }

    #[tokio::test]
    async fn pages_are_rewritten_whatever_packs_them() {
        let page = b"<a href=\"/x\">".to_vec();
        let (headers, plain) = through("text/html; charset=utf-8", None, page.clone()).await;
        assert_eq!(plain, b"<a href=\"/p/x\">");
        assert!(!headers.contains_key(header::CONTENT_LENGTH));
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(&page).unwrap();
        let (_, gzip) = through("text/html", Some("gzip"), packed.finish().unwrap()).await;
        let mut text = String::new();
        GzDecoder::new(&*gzip).read_to_string(&mut text).unwrap();
        assert_eq!(text, "<a href=\"/p/x\">");
    }

    #[tokio::test]
    async fn everything_else_goes_through_as_it_is() {
        let page = b"<a href=\"/x\">".to_vec();
        assert_eq!(through("text/plain", None, page.clone()).await.1, page);
        assert_eq!(through("text/html", Some("br"), page.clone()).await.1, page);
        assert_eq!(through("text/html", Some("gzip"), page.clone()).await.1, page, "not packed at all");
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(&page).unwrap();
        let packed = packed.finish().unwrap();
        let (headers, same) = through("application/json", Some("gzip"), packed.clone()).await;
        assert_eq!(same, packed);
        assert_eq!(headers[header::CONTENT_ENCODING], "gzip");
        assert_eq!(headers[header::CONTENT_LENGTH], packed.len().to_string());
        let large = [page.clone(), vec![b' '; MAX + 1]].concat();
        assert_eq!(through("text/html", None, large.clone()).await.1, large);
    }
}
