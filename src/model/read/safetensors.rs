//! Headers of safetensors files.
//!
//! ```text
//! u64 length of the header, little-endian
//! {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}, …, "__metadata__": {"key": "text"}}
//! the data of the tensors, without gaps, to the end of the file
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Seek};

use serde::Deserialize;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::cursor::{FileCursor, HeaderError};
use super::json;
use crate::oci::digest::Digest;

/// Bytes of a header, by the format.
pub(crate) const MAX_HEADER: u64 = 100_000_000;
/// Tensors that a file may have.
pub(crate) const MAX_TENSORS: usize = 1 << 18;
/// Dimensions that a tensor may have.
const MAX_DIMENSIONS: usize = 64;
/// Types that the tensors of a file may have.
const MAX_TYPES: usize = 64;

/// The header of a safetensors file, checked: the data of its tensors fill the rest of the file, one after the other, and
/// have the bytes that their types and shapes need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafetensorsHeader {
    /// Where the data begin.
    pub data_start: u64,
    /// The length of the file.
    pub size: u64,
    /// How many numbers of each type its tensors hold.
    pub elements: BTreeMap<String, u64>,
    /// What its tensors are called, as [`name_of`] writes it; sorted.
    pub(crate) names: Vec<TensorName>,
}

/// What stands for the name of a tensor: names have any length.
pub(crate) type TensorName = [u8; 16];

/// The beginning of the name's digest.
pub(crate) fn name_of(name: &str) -> TensorName {
    let digest = Digest::of(name.as_bytes());
    std::array::from_fn(|n| digest.as_bytes()[n])
}

impl SafetensorsHeader {
    /// Reads a header, and no data.
    ///
    /// # Errors
    /// If it is another format, is damaged, promises more than the file has, or is above one of the limits of this module.
    pub fn read<R: Read + Seek>(reader: R) -> Result<Self, HeaderError> {
        let mut cursor = FileCursor::new(reader)?;
        let length = cursor.u64(format_args!("the length of its header"))?;
        if length > MAX_HEADER {
            let message = format!("a header of {length} bytes, and {MAX_HEADER} are the most");
            return Err(HeaderError::invalid(0, message));
        }
        let mut found = Tensors::default();
        json::read(&mut cursor, length, "its header", &mut found)?;
        let (data_start, size) = (8 + length, cursor.size());
        let data = size - data_start;
        found.spans.sort_unstable();
        let mut end = 0;
        for (begin, next) in &found.spans {
            if *begin != end {
                let message = format!("the data of its tensors have a gap or an overlap at {end} of the data");
                return Err(HeaderError::invalid(data_start.saturating_add(end.min(*begin)).min(size), message));
            }
            end = *next;
        }
        if let Some(missing) = end.checked_sub(data).filter(|missing| *missing > 0) {
            return Err(HeaderError::Truncated { what: "the data of its tensors".to_owned(), size, missing });
        }
        if end < data {
            let message = format!("{} bytes that belong to no tensor", data - end);
            return Err(HeaderError::invalid(data_start + end, message));
        }
        found.names.sort_unstable();
        if found.names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(HeaderError::invalid(8, "a tensor is there twice"));
        }
        Ok(Self { data_start, size, elements: found.elements, names: found.names })
    }

    /// How many tensors it has.
    #[must_use]
    pub const fn tensors(&self) -> usize {
        self.names.len()
    }
}

/// Bits of a number of this type; `None` for a type that is not known, and may have any.
#[must_use]
pub fn bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => 8,
        "I16" | "U16" | "F16" | "BF16" => 16,
        "I32" | "U32" | "F32" => 32,
        "I64" | "U64" | "F64" | "C64" => 64,
        _ => return None,
    })
}

#[derive(Default)]
struct Tensors {
    spans: Vec<(u64, u64)>,
    names: Vec<TensorName>,
    elements: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct SafetensorsTensor {
    dtype: Dtype,
    shape: Shape,
    data_offsets: (u64, u64),
}

impl Tensors {
    fn add(&mut self, name: &str, tensor: SafetensorsTensor) -> Result<(), String> {
        let SafetensorsTensor { dtype: Dtype(dtype), shape: Shape(elements), data_offsets: (begin, end) } = tensor;
        let name = || name.chars().take(100).collect::<String>();
        if self.names.len() == MAX_TENSORS {
            return Err(format!("more than {MAX_TENSORS} tensors"));
        }
        let Some(length) = end.checked_sub(begin) else {
            return Err(format!("the data of tensor '{}' end at {end}, before they begin at {begin}", name()));
        };
        if let Some(bits) = bits(&dtype) {
            let expected = elements.checked_mul(bits).filter(|bits| bits.is_multiple_of(8)).map(|bits| bits / 8);
            if expected != Some(length) {
                let needs = expected.map_or_else(|| "a number of bytes that cannot be".to_owned(), |n| n.to_string());
                return Err(format!("tensor '{}' has {length} bytes, and its shape needs {needs}", name()));
            }
        }
        if self.elements.len() > MAX_TYPES {
            return Err(format!("more than {MAX_TYPES} dtypes"));
        }
        let count = self.elements.entry(dtype).or_default();
        *count = count.checked_add(elements).ok_or("all tensors hold more numbers than 64 bits count")?;
        self.spans.push((begin, end));
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for &mut Tensors {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Tensors {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some(name) = entries.next_key::<String>()? {
            if name == "__metadata__" {
                entries.next_value::<IgnoredAny>()?;
            } else {
                let tensor = entries.next_value::<SafetensorsTensor>()?;
                self.add(&name, tensor).map_err(A::Error::custom)?;
                self.names.push(name_of(&name));
            }
        }
        Ok(())
    }
}

/// A type's name: short, so that a map of them is small.
struct Dtype(String);

impl<'de> Deserialize<'de> for Dtype {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let fits = !text.is_empty() && text.len() <= 16 && text.bytes().all(|byte| byte.is_ascii_graphic());
        if fits { Ok(Self(text)) } else { Err(D::Error::custom("not a dtype")) }
    }
}

/// How many numbers a shape stands for.
struct Shape(u64);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Dimensions;
        impl<'de> Visitor<'de> for Dimensions {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut dimensions: A) -> Result<Shape, A::Error> {
                let (mut count, mut product) = (0, 1_u64);
                while let Some(dimension) = dimensions.next_element::<u64>()? {
                    count += 1;
                    if count > MAX_DIMENSIONS {
                        return Err(A::Error::custom(format!("more than {MAX_DIMENSIONS} dimensions")));
                    }
                    let next = product.checked_mul(dimension);
                    product = next.ok_or_else(|| A::Error::custom("a shape of more numbers than 64 bits count"))?;
                }
                Ok(Shape(product))
            }
        }
        from.deserialize_seq(Dimensions)
    }
}

/// The files that an index names, and the tensors in each.
pub(crate) type WeightIndex = BTreeMap<String, Vec<TensorName>>;

/// Tensors that an index may name.
const MAX_INDEXED: usize = 1 << 19;

/// Reads a `model.safetensors.index.json`.
pub(crate) fn read_index<R: Read + Seek>(reader: R) -> Result<WeightIndex, HeaderError> {
    #[derive(Deserialize)]
    struct File {
        weight_map: WeightMap,
    }
    struct WeightMap(WeightIndex);
    impl<'de> Deserialize<'de> for WeightMap {
        fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            struct Map;
            impl<'de> Visitor<'de> for Map {
                type Value = WeightMap;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("files by the names of tensors")
                }

                fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<WeightMap, A::Error> {
                    let (mut index, mut count) = (WeightIndex::new(), 0);
                    while let Some((name, file)) = entries.next_entry::<String, String>()? {
                        count += 1;
                        if count > MAX_INDEXED {
                            return Err(A::Error::custom(format!("more than {MAX_INDEXED} tensors")));
                        }
                        if file.is_empty() || file.len() > 255 || file.contains(['/', '\0']) || file.starts_with('.') {
                            return Err(A::Error::custom("weight_map has what is not a name of a file beside it"));
                        }
                        index.entry(file).or_default().push(name_of(&name));
                    }
                    index.values_mut().for_each(|names| names.sort_unstable());
                    Ok(WeightMap(index))
                }
            }
            from.deserialize_map(Map)
        }
    }
    struct WholeIndex;
    impl<'de> DeserializeSeed<'de> for WholeIndex {
        type Value = WeightIndex;

        fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<WeightIndex, D::Error> {
            File::deserialize(from).map(|file| file.weight_map.0)
        }
    }
    let mut cursor = FileCursor::new(reader)?;
    let size = cursor.size();
    if size > MAX_HEADER {
        return Err(HeaderError::invalid(0, format!("an index of {size} bytes, and {MAX_HEADER} are the most")));
    }
    json::read(&mut cursor, size, "weight_map", WholeIndex)
}
