//! The input photo and the output file.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::failure::Failure;

/// A person in a plain shirt, drawn for this example.
const DRAWING: &[u8] = include_bytes!("photo.png");

/// Maximum size of a photo in bytes.
const MAX_PHOTO: u64 = 32 * 1024 * 1024;

/// The boundary of the multipart form. It must not occur in the photo.
const BOUNDARY: &str = "try-on-7MA4YWxkTrZu0gW9k2hQc8vB1xE3nJ5s";

pub(crate) struct Photo {
    pub(crate) name: String,
    pub(crate) bytes: Bytes,
    kind: Kind,
}

/// The image formats that Aiuta accepts.
#[derive(Clone, Copy)]
enum Kind {
    Jpeg,
    Png,
}

impl Kind {
    /// Detects the format by the first bytes. The file name is ignored.
    fn of(bytes: &[u8]) -> Option<Self> {
        if bytes.starts_with(b"\xff\xd8\xff") {
            Some(Self::Jpeg)
        } else if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
            Some(Self::Png)
        } else {
            None
        }
    }

    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Jpeg => ("image/jpeg", "jpg"),
            Self::Png => ("image/png", "png"),
        }
    }
}

impl Photo {
    /// Reads the photo from a file. Without a path, returns the included drawing.
    pub(crate) fn read(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Ok(Self { name: "photo.png".to_owned(), bytes: Bytes::from_static(DRAWING), kind: Kind::Png });
        };
        let fail = |problem| Failure::new(format!("the photo {} {problem}", path.display()));
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_PHOTO + 1).read_to_end(&mut bytes))
            .map_err(|error| fail("can't be read").because(error).advise("Give a JPEG or PNG with --photo FILE"))?;
        if bytes.is_empty() {
            return Err(fail("is empty").advise("Give a JPEG or PNG with --photo FILE"));
        }
        if bytes.len() as u64 > MAX_PHOTO {
            return Err(fail("is larger than 32 MiB").advise("Give a smaller one with --photo FILE"));
        }
        let kind = Kind::of(&bytes)
            .ok_or_else(|| fail("is neither JPEG nor PNG").advise("Convert it, or give another with --photo FILE"))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, bytes: bytes.into(), kind })
    }

    /// Returns the content type and the body of an upload: `multipart/form-data` (RFC 7578) with one part.
    pub(crate) fn to_form(&self) -> (String, Bytes) {
        let (content_type, extension) = self.kind.names();
        let head = format!(
            "--{BOUNDARY}\r\n\
             Content-Disposition: form-data; name=\"image_data\"; filename=\"photo.{extension}\"\r\n\
             Content-Type: {content_type}\r\n\r\n"
        );
        let end = format!("\r\n--{BOUNDARY}--\r\n");
        let body = [head.as_bytes(), &self.bytes, end.as_bytes()].concat();
        (format!("multipart/form-data; boundary={BOUNDARY}"), body.into())
    }
}

/// The destination of the results.
pub(crate) struct Out {
    /// `None` creates a temporary file for each result.
    path: Option<PathBuf>,
    /// Whether `prepare` created the file and no result was written to it yet.
    is_empty: bool,
}

impl Out {
    /// Checks that the file is writable before the program starts an operation, which costs money.
    pub(crate) fn prepare(path: Option<PathBuf>) -> Result<Self, Failure> {
        let Some(path) = path else { return Ok(Self { path: None, is_empty: false }) };
        let is_empty = !path.exists();
        match OpenOptions::new().write(true).create(true).truncate(false).open(&path) {
            Ok(_) => Ok(Self { path: Some(path), is_empty }),
            Err(error) => Err(cannot_write(&path).because(error)),
        }
    }

    /// Writes a result and returns its path.
    pub(crate) fn save(&mut self, image: &[u8]) -> Result<PathBuf, Failure> {
        let path = match &self.path {
            Some(path) => {
                fs::write(path, image).map_err(|error| cannot_write(path).because(error))?;
                path.clone()
            }
            None => {
                let extension = Kind::of(image).map_or("image", |kind| kind.names().1);
                let file = tempfile::Builder::new().prefix("try-on-").suffix(&format!(".{extension}")).tempfile();
                let kept = file.and_then(|mut file| {
                    file.write_all(image)?;
                    Ok(file.keep()?.1)
                });
                kept.map_err(|error| cannot_write(&std::env::temp_dir()).because(error))?
            }
        };
        self.is_empty = false;
        Ok(path)
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        if let (Some(path), true) = (&self.path, self.is_empty) {
            // The file is still empty. If it can't be removed, it stays.
            let _ = fs::remove_file(path);
        }
    }
}

fn cannot_write(path: &Path) -> Failure {
    Failure::new(format!("the result can't be written to {}", path.display()))
        .advise("Name another file with --out FILE")
}
