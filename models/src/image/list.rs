//! Images and the labels they should get.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::{Labels, ModelError};

/// An image file and its label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelledImage {
    /// The file.
    pub path: PathBuf,
    /// The label, counted from zero.
    pub label: usize,
}

/// Endings of the files that are taken from a folder of images.
const ENDINGS: [&str; 3] = ["png", "jpg", "jpeg"];

/// What a list of images looks like.
const LIST: &str = "a folder with a folder per label, a .csv file of lines `image,label`, or a .json \
                    file with a list of objects of `image` and `label`";

/// Lists the images of `path`, sorted by label and name or in the order of the list.
///
/// - A folder holds a folder for each label: named by the label or its number, or, where none of
///   them is and there are as many folders as labels, in alphabetical order (as the folders of
///   ImageNet are). Files that end in `.png`, `.jpg` or `.jpeg` are taken from them.
/// - A `.csv` file has a line `image,label` for each image, and may begin with these two words; the
///   label is what follows the last comma.
/// - A `.json` file is a list of objects `{"image": …, "label": …}`.
///
/// A label is a name, a description or a number; see [`Labels::find`]. An image is named relative to
/// the list.
///
/// # Errors
///
/// [`ModelError::Io`], [`ModelError::MissingFile`] and [`ModelError::Json`] if something cannot be
/// read; [`ModelError::ImageList`] for a list of another form or without images;
/// [`ModelError::UnknownLabel`] for a label that the model does not have.
pub fn labelled_images(path: &Path, labels: &Labels) -> Result<Vec<LabelledImage>, ModelError> {
    let ending = path.extension().and_then(|ending| ending.to_str());
    let images = if path.is_dir() {
        in_folders(path, labels)?
    } else {
        match ending.map(str::to_ascii_lowercase).as_deref() {
            Some("csv") => in_csv(path, labels)?,
            Some("json") => in_json(path, labels)?,
            _ if !path.exists() => {
                return Err(ModelError::MissingFile {
                    path: path.to_path_buf(),
                    expected: LIST,
                });
            }
            _ => return Err(wrong(path, "not a list of images", LIST)),
        }
    };
    if images.is_empty() {
        return Err(wrong(path, "no images", LIST));
    }
    Ok(images)
}

/// The images in a folder and, where there are any, in the folders in it, sorted by name.
///
/// # Errors
///
/// [`ModelError::Io`] and [`ModelError::MissingFile`] if a folder cannot be read;
/// [`ModelError::ImageList`] if there are no images.
pub fn images(path: &Path) -> Result<Vec<PathBuf>, ModelError> {
    const FOLDER: &str = "a folder with .png, .jpg or .jpeg files, or folders of such";
    if !path.exists() {
        return Err(ModelError::MissingFile {
            path: path.to_path_buf(),
            expected: FOLDER,
        });
    }
    let mut images = Vec::new();
    for entry in entries(path)? {
        if entry.is_dir() {
            images.extend(entries(&entry)?.into_iter().filter(|file| is_image(file)));
        } else if is_image(&entry) {
            images.push(entry);
        }
    }
    if images.is_empty() {
        return Err(wrong(path, "no images", FOLDER));
    }
    Ok(images)
}

fn is_image(file: &Path) -> bool {
    let found = file.extension().unwrap_or_default();
    let known = |ending: &&str| found.eq_ignore_ascii_case(ending);
    file.is_file() && ENDINGS.iter().any(known)
}

fn wrong(path: &Path, found: impl Into<String>, expected: &str) -> ModelError {
    ModelError::ImageList {
        path: path.to_path_buf(),
        found: found.into(),
        expected: expected.to_string(),
    }
}

/// The label that `text` names; `path` says where.
fn label(labels: &Labels, text: &str, path: &Path) -> Result<usize, ModelError> {
    labels.find(text).ok_or_else(|| ModelError::UnknownLabel {
        path: path.to_path_buf(),
        found: text.chars().take(80).collect(),
        labels: labels.count(),
    })
}

fn in_folders(path: &Path, labels: &Labels) -> Result<Vec<LabelledImage>, ModelError> {
    let folders: Vec<_> = entries(path)?
        .into_iter()
        .filter(|path| path.is_dir())
        .collect();
    let name = |folder: &Path| {
        let name = folder.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    let in_order = folders.len() == labels.count()
        && folders
            .iter()
            .all(|folder| labels.find(&name(folder)).is_none());
    let mut images = Vec::new();
    for (n, folder) in folders.iter().enumerate() {
        let label = if in_order {
            n
        } else {
            label(labels, &name(folder), folder)?
        };
        let files = entries(folder)?.into_iter().filter(|file| is_image(file));
        images.extend(files.map(|path| LabelledImage { path, label }));
    }
    images.sort_by(|a, b| (a.label, &a.path).cmp(&(b.label, &b.path)));
    Ok(images)
}

/// What is in a folder, sorted.
fn entries(path: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let io = |source| ModelError::Io {
        path: path.to_path_buf(),
        source,
    };
    let entries = fs::read_dir(path).map_err(io)?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = paths.collect::<Result<Vec<_>, _>>().map_err(io)?;
    paths.sort();
    Ok(paths)
}

fn read_text(path: &Path) -> Result<String, ModelError> {
    fs::read_to_string(path).map_err(|source| {
        let path = path.to_path_buf();
        match source.kind() {
            std::io::ErrorKind::NotFound => ModelError::MissingFile {
                path,
                expected: LIST,
            },
            _ => ModelError::Io { path, source },
        }
    })
}

fn in_csv(path: &Path, labels: &Labels) -> Result<Vec<LabelledImage>, ModelError> {
    let text = read_text(path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut images = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let line = line.trim();
        let header = n == 0 && line.eq_ignore_ascii_case("image,label");
        if line.is_empty() || header {
            continue;
        }
        let place = PathBuf::from(format!("{}, line {}", path.display(), n + 1));
        let Some((image, name)) = line.rsplit_once(',') else {
            return Err(wrong(&place, "no comma", "image,label"));
        };
        images.push(LabelledImage {
            path: folder.join(image.trim()),
            label: label(labels, name.trim(), &place)?,
        });
    }
    Ok(images)
}

/// An entry of a JSON list.
#[derive(Deserialize)]
struct Entry {
    image: PathBuf,
    label: Value,
}

fn in_json(path: &Path, labels: &Labels) -> Result<Vec<LabelledImage>, ModelError> {
    let entries: Vec<Entry> =
        serde_json::from_str(&read_text(path)?).map_err(|source| ModelError::Json {
            path: path.to_path_buf(),
            source,
        })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let images = entries.into_iter().map(|entry| {
        let name = match &entry.label {
            Value::String(name) => name.clone(),
            other => other.to_string(),
        };
        Ok(LabelledImage {
            path: folder.join(entry.image),
            label: label(labels, &name, path)?,
        })
    });
    images.collect()
}
