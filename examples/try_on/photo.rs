//! The photo that goes in, and the file that comes out.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::failure::Failure;

/// A person in a plain shirt, drawn for this example.
const DRAWING: &[u8] = include_bytes!("photo.png");

/// More than any camera makes.
const MAX_PHOTO: u64 = 32 * 1024 * 1024;

/// Separates the parts of an upload; it must not occur in them.
const BOUNDARY: &str = "try-on-7MA4YWxkTrZu0gW9k2hQc8vB1xE3nJ5s";

pub(crate) struct Photo {
    pub(crate) name: String,
    pub(crate) bytes: Bytes,
    kind: Kind,
}

/// The kinds of image that Aiuta takes.
#[derive(Clone, Copy)]
enum Kind {
    Jpeg,
    Png,
}

impl Kind {
    /// By its first bytes, whatever the file is called.
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
    /// The photo in a file, or the drawing.
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
            return Err(fail("is over 32 MB").advise("Give a smaller one with --photo FILE"));
        }
        let kind = Kind::of(&bytes)
            .ok_or_else(|| fail("is neither JPEG nor PNG").advise("Convert it, or give another with --photo FILE"))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, bytes: bytes.into(), kind })
    }

    /// Content type and body of an upload: `multipart/form-data` (RFC 7578) with one part.
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

/// Where results go.
pub(crate) struct Out {
    /// None: a temporary file for each.
    path: Option<PathBuf>,
    /// The file is there only because we tried to write to it.
    is_ours: bool,
}

impl Out {
    /// Checks that the file can be written, before an operation is paid for.
    pub(crate) fn prepare(path: Option<PathBuf>) -> Result<Self, Failure> {
        let Some(path) = path else { return Ok(Self { path: None, is_ours: false }) };
        let is_ours = !path.exists();
        match OpenOptions::new().write(true).create(true).truncate(false).open(&path) {
            Ok(_) => Ok(Self { path: Some(path), is_ours }),
            Err(error) => Err(cannot_write(&path).because(error)),
        }
    }

    /// Writes a result; answers where to.
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
        self.is_ours = false;
        Ok(path)
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        if let (Some(path), true) = (&self.path, self.is_ours) {
            // Empty still. If it can't be removed there is nothing more to do about it.
            let _ = fs::remove_file(path);
        }
    }
}

fn cannot_write(path: &Path) -> Failure {
    Failure::new(format!("the result can't be written to {}", path.display()))
        .advise("Name another file with --out FILE")
}
