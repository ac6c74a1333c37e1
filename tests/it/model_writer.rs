//! GGUF and safetensors files made by hand, right ones and wrong ones.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// A value of a GGUF key.
pub(crate) enum Said<'a> {
    U16(u16),
    I32(i32),
    U32(u32),
    U64(u64),
    F32(f32),
    Bool(bool),
    Text(&'a str),
    Texts(&'a [&'a str]),
    /// The number of any kind, and the bytes after it.
    Raw(u32, Vec<u8>),
}

/// A GGUF file in the making.
pub(crate) struct Gguf {
    version: u32,
    alignment: usize,
    keys: u64,
    key_bytes: Vec<u8>,
    tensors: u64,
    tensor_bytes: Vec<u8>,
    data: Vec<u8>,
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

impl Gguf {
    /// A file without keys and tensors.
    pub(crate) fn new(version: u32) -> Self {
        let (key_bytes, tensor_bytes, data) = Default::default();
        Self { version, alignment: 32, keys: 0, key_bytes, tensors: 0, tensor_bytes, data }
    }

    /// A model's file with its architecture, and nothing else.
    pub(crate) fn model() -> Self {
        Self::new(3).key("general.architecture", Said::Text("llama"))
    }

    pub(crate) fn key(mut self, name: &str, said: Said<'_>) -> Self {
        let bytes = &mut self.key_bytes;
        text(bytes, name);
        let mut value = |kind: u32, value: &[u8]| {
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        };
        match said {
            Said::U16(number) => value(2, &number.to_le_bytes()),
            Said::U32(number) => value(4, &number.to_le_bytes()),
            Said::I32(number) => value(5, &number.to_le_bytes()),
            Said::F32(number) => value(6, &number.to_le_bytes()),
            Said::Bool(yes) => value(7, &[yes.into()]),
            Said::U64(number) => value(10, &number.to_le_bytes()),
            Said::Text(said) => {
                value(8, &[]);
                text(bytes, said);
            }
            Said::Texts(texts) => {
                value(9, &8_u32.to_le_bytes());
                bytes.extend((texts.len() as u64).to_le_bytes());
                texts.iter().for_each(|said| text(bytes, said));
            }
            Said::Raw(kind, raw) => value(kind, &raw),
        }
        self.keys += 1;
        self
    }

    /// The alignment, which the keys say too.
    pub(crate) fn aligned(mut self, alignment: u32) -> Self {
        self.alignment = usize::try_from(alignment).unwrap();
        self.key("general.alignment", Said::U32(alignment))
    }

    /// A tensor of this type and size, after the others.
    pub(crate) fn tensor(self, name: &str, dims: &[u64], kind: u32, size: usize) -> Self {
        let offset = self.data.len() as u64;
        let mut own = self.tensor_at(name, dims, kind, offset);
        let mark = own.tensors.to_le_bytes()[0];
        own.data.extend(std::iter::repeat_n(mark, size));
        own.data.resize(own.data.len().next_multiple_of(own.alignment), 0);
        own
    }

    /// The entry of a tensor whose data are anywhere.
    pub(crate) fn tensor_at(mut self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        let bytes = &mut self.tensor_bytes;
        text(bytes, name);
        bytes.extend(u32::try_from(dims.len()).unwrap().to_le_bytes());
        dims.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
        bytes.extend(kind.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        self.tensors += 1;
        self
    }

    /// What a shard says of itself.
    pub(crate) fn shard(self, index: u16, count: u16, tensors: i32) -> Self {
        self.key("split.no", Said::U16(index))
            .key("split.count", Said::U16(count))
            .key("split.tensors.count", Said::I32(tensors))
    }

    /// The header up to the data.
    pub(crate) fn header(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.tensors.to_le_bytes());
        bytes.extend(self.keys.to_le_bytes());
        bytes.extend(&self.key_bytes);
        bytes.extend(&self.tensor_bytes);
        bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
        bytes
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        [self.header(), self.data.clone()].concat()
    }
}

/// A file with something of everything that the format has.
pub(crate) fn everything(version: u32) -> Gguf {
    let list = |kind: u32, length: u64, items: &[u8]| [&kind.to_le_bytes()[..], &length.to_le_bytes(), items].concat();
    let inner = list(0, 2, &[1, 2]);
    Gguf::new(version)
        .key("general.architecture", Said::Text("llama"))
        .key("general.name", Said::Text("Tiny\nModel "))
        .key("general.version", Said::Text("v1"))
        .key("general.organization", Said::Text("Makers"))
        .key("general.source.url", Said::Text("https://example.org/tiny"))
        .key("general.license", Said::Text("mit"))
        .key("general.languages", Said::Texts(&["en", "english", "de", "en"]))
        .key("general.file_type", Said::U32(15))
        .key("llama.context_length", Said::U32(4096))
        .key("llama.embedding_length", Said::U64(64))
        .key("tokenizer.chat_template", Said::Text("{{ messages }}"))
        .key("tokenizer.ggml.tokens", Said::Texts(&["a"; 100]))
        .key("tokenizer.ggml.scores", Said::Raw(9, list(6, 3, &[0; 12])))
        .key("nested", Said::Raw(9, list(9, 2, &[inner.clone(), inner].concat())))
        .key("float", Said::F32(0.5))
        .key("yes", Said::Bool(true))
        .key("minus", Said::I32(-1))
        .key("u8", Said::Raw(0, vec![200]))
        .key("i8", Said::Raw(1, vec![200]))
        .key("i16", Said::Raw(3, vec![0, 128]))
        .key("i64", Said::Raw(11, vec![255; 8]))
        .key("f64", Said::Raw(12, 0.25_f64.to_le_bytes().to_vec()))
        .key("no text", Said::Raw(8, [&2_u64.to_le_bytes()[..], &[0xff, 0xfe]].concat()))
        .aligned(64)
        .tensor("token_embd.weight", &[256, 10], 12, 1440)
        .tensor("norm.weight", &[64], 0, 256)
        .tensor("empty", &[0, 3], 1, 0)
        .tensor("scalar", &[], 28, 8)
        .tensor("future", &[5, 5], 4711, 33)
}

/// A safetensors file of these tensors: name, type, shape, bytes.
pub(crate) fn safetensors(tensors: &[(&str, &str, &[u64], u64)]) -> Vec<u8> {
    let (mut header, mut end) = (BTreeMap::<&str, Value>::new(), 0);
    header.insert("__metadata__", json!({ "format": "pt" }));
    for (name, dtype, shape, bytes) in tensors {
        header.insert(name, json!({ "dtype": dtype, "shape": shape, "data_offsets": [end, end + bytes] }));
        end += bytes;
    }
    safetensors_of(&json!(header).to_string(), end)
}

/// A safetensors file with this header, and this many bytes of data.
pub(crate) fn safetensors_of(header: &str, data: u64) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend((0..data).map(|n| n.to_le_bytes()[0]));
    bytes
}
