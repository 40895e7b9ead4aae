//! Text to token ids and back.

use std::path::{Path, PathBuf};

use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::BPE;
use tokenizers::{AddedToken, Tokenizer};

use crate::ModelError;

/// The token that separates documents in GPT-2's vocabulary.
const END_OF_TEXT: &str = "<|endoftext|>";

/// The tokenizer of a checkpoint directory.
///
/// Encodes as calling the tokenizer of `transformers` on the whole text does: special tokens that
/// the tokenizer puts around every text are added, nothing is cut off or padded.
#[derive(Debug, Clone)]
pub struct TextTokenizer {
    inner: Tokenizer,
    path: PathBuf,
}

/// Decodes token by token, holding back bytes until they are whole characters.
pub struct TextStream<'a> {
    tokenizer: &'a TextTokenizer,
    ids: Vec<u32>,
    /// Bytes of the text of `ids` that were returned already.
    returned: usize,
}

impl TextTokenizer {
    /// Opens the tokenizer in the directory `dir`: `tokenizer.json`, or the `vocab.json` and
    /// `merges.txt` of GPT-2.
    ///
    /// # Errors
    ///
    /// [`ModelError::MissingFile`] if neither is there, [`ModelError::UnsupportedTokenizer`] if a
    /// sentencepiece model is all there is; [`ModelError::Tokenizer`] if what is there cannot be
    /// parsed.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, ModelError> {
        let dir = dir.as_ref();
        let path = dir.join("tokenizer.json");
        if path.exists() {
            let inner = Tokenizer::from_file(&path).map_err(|error| failed(&path, &*error))?;
            return Self::new(inner, path);
        }
        let (vocab, merges) = (dir.join("vocab.json"), dir.join("merges.txt"));
        if vocab.exists() && merges.exists() {
            let inner = byte_level_bpe(&vocab, &merges)?;
            return Self::new(inner, vocab);
        }
        let sentencepiece = dir.join("tokenizer.model");
        if sentencepiece.exists() {
            return Err(ModelError::UnsupportedTokenizer {
                path: sentencepiece,
                found: "a sentencepiece tokenizer, which is not read",
                expected: "tokenizer.json beside it, as save_pretrained of a fast tokenizer of \
                           transformers writes it",
            });
        }
        Err(ModelError::MissingFile {
            path,
            expected: "a tokenizer is read from tokenizer.json, or from vocab.json and merges.txt",
        })
    }

    fn new(mut inner: Tokenizer, path: PathBuf) -> Result<Self, ModelError> {
        // Settings for training batches; they would silently shorten or lengthen a text.
        inner
            .with_truncation(None)
            .map_err(|error| failed(&path, &*error))?;
        inner.with_padding(None);
        Ok(Self { inner, path })
    }

    /// The token ids of `text`.
    ///
    /// # Errors
    ///
    /// [`ModelError::Tokenizer`] if a part of the text has no token.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let encoding = self
            .inner
            .encode_fast(text, true)
            .map_err(|error| failed(&self.path, &*error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `ids`, without special tokens.
    ///
    /// # Errors
    ///
    /// [`ModelError::Tokenizer`] if the decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
        self.inner
            .decode(ids, true)
            .map_err(|error| failed(&self.path, &*error))
    }

    /// Starts decoding token by token.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream {
            tokenizer: self,
            ids: Vec::new(),
            returned: 0,
        }
    }

    /// Number of tokens, those added to the vocabulary included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The id of a token given as text, such as `<|endoftext|>`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }
}

impl TextStream<'_> {
    /// Adds a token and returns the text it completes, which may be empty.
    ///
    /// # Errors
    ///
    /// [`ModelError::Tokenizer`] if the decoder fails.
    pub fn push(&mut self, id: u32) -> Result<String, ModelError> {
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids)?;
        // A character cut in two decodes as this replacement; its other half is yet to come.
        let whole = text.trim_end_matches(char::REPLACEMENT_CHARACTER).len();
        Ok(self.take(&text, whole))
    }

    /// Returns what is held back when no more tokens come.
    ///
    /// # Errors
    ///
    /// [`ModelError::Tokenizer`] if the decoder fails.
    pub fn finish(mut self) -> Result<String, ModelError> {
        let text = self.tokenizer.decode(&self.ids)?;
        Ok(self.take(&text, text.len()))
    }

    fn take(&mut self, text: &str, end: usize) -> String {
        let new = text.get(self.returned..end).unwrap_or_default().to_string();
        self.returned = self.returned.max(end);
        new
    }
}

/// GPT-2's tokenizer from its two original files.
fn byte_level_bpe(vocab: &Path, merges: &Path) -> Result<Tokenizer, ModelError> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let bpe = BPE::from_file(&text(vocab), &text(merges))
        .build()
        .map_err(|error| failed(vocab, &*error))?;
    let mut tokenizer = Tokenizer::new(bpe);
    // One type splits the text, decodes it and trims offsets; GPT-2 adds no leading space.
    let byte_level = ByteLevel::default().add_prefix_space(false);
    tokenizer.with_pre_tokenizer(Some(byte_level));
    tokenizer.with_decoder(Some(byte_level));
    if tokenizer.token_to_id(END_OF_TEXT).is_some() {
        tokenizer.add_special_tokens(&[AddedToken::from(END_OF_TEXT, true)]);
    }
    Ok(tokenizer)
}

fn failed(path: &Path, error: &(dyn std::error::Error + Send + Sync)) -> ModelError {
    let reason = error.to_string();
    ModelError::Tokenizer {
        path: path.to_path_buf(),
        reason: reason.split_whitespace().collect::<Vec<_>>().join(" "),
    }
}
