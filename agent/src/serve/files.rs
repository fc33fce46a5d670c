//! The machine's log files as a kubelet shows them: directories as pages of links, files as they are. Never a file outside
//! of the log directory, wherever a path or a link points.

use std::{
    io,
    path::{Path, PathBuf},
};

use axum::{
    body::Body,
    extract,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use tokio_util::io::ReaderStream;

/// Where a kubelet looks, too.
const DIRECTORY: &str = "/var/log";

/// `/logs/`
pub(super) async fn root() -> Response {
    show(Path::new(DIRECTORY), "").await
}

/// `/logs/journal/`
pub(super) async fn below(extract::Path(path): extract::Path<String>) -> Response {
    show(Path::new(DIRECTORY), &path).await
}

enum Shown {
    Names(Vec<String>),
    File(tokio::fs::File, u64),
}

async fn show(root: &Path, path: &str) -> Response {
    match look(root, path).await {
        Ok(Shown::Names(names)) => {
            let links: String =
                names.iter().map(|name| format!("<a href=\"{0}\">{0}</a>\n", escaped(name))).collect();
            let page = format!(
                "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n{links}</pre>\n"
            );
            ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response()
        }
        Ok(Shown::File(file, size)) => {
            // What is written meanwhile is for the next who asks: the length has been told.
            let bytes = tokio::io::AsyncReadExt::take(file, size);
            let headers = [
                (header::CONTENT_TYPE, "text/plain; charset=utf-8".to_owned()),
                (header::CONTENT_LENGTH, size.to_string()),
            ];
            (headers, Body::from_stream(ReaderStream::new(bytes))).into_response()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            (StatusCode::FORBIDDEN, "403 Forbidden\n").into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

fn escaped(name: &str) -> String {
    name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;")
}

async fn look(root: &Path, path: &str) -> io::Result<Shown> {
    let root = tokio::fs::canonicalize(root).await?;
    let wanted: PathBuf = root.join(path.trim_start_matches('/'));
    // After all links and `..` are followed.
    let found = tokio::fs::canonicalize(wanted).await?;
    if !found.starts_with(&root) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let about = tokio::fs::metadata(&found).await?;
    if about.is_file() {
        return Ok(Shown::File(tokio::fs::File::open(&found).await?, about.len()));
    }
    if !about.is_dir() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let (mut names, mut entries) = (Vec::new(), tokio::fs::read_dir(&found).await?);
    while let Some(entry) = entries.next_entry().await? {
        let slash = if entry.file_type().await?.is_dir() { "/" } else { "" };
        names.push(format!("{}{slash}", entry.file_name().to_string_lossy()));
    }
    names.sort();
    Ok(Shown::Names(names))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(root: &Path, path: &str) -> (u16, String) {
        let response = show(root, path).await;
        let code = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (code, String::from_utf8_lossy(&bytes).into_owned())
    }

    #[tokio::test]
    async fn files_are_shown_and_nothing_outside_is() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("log");
        std::fs::create_dir_all(root.join("app")).unwrap();
        std::fs::write(root.join("a&b.log"), "hello").unwrap();
        std::fs::write(directory.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink(directory.path().join("secret"), root.join("link")).unwrap();
        let (code, page) = get(&root, "").await;
        assert_eq!(code, 200);
        assert!(
            page.contains("<a href=\"a&amp;b.log\">a&amp;b.log</a>\n<a href=\"app/\">app/</a>"),
            "{page}"
        );
        assert_eq!(get(&root, "a&b.log").await, (200, "hello".to_owned()));
        for path in ["../secret", "link", "app/../../secret", "/../secret", "none"] {
            assert_eq!(get(&root, path).await.0, 404, "{path}");
        }
    }
}
