//! The numbers that GGUF files name types by: those of tensors (ggml), and those of whole files (llama.cpp).
//!
//! Both lists grow. A number that is not here is no error: the tensor's length is not known, all else is.

/// A type of tensors: what it is called, how many numbers make a block, and how many bytes a block has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorType {
    /// Its name, as llama.cpp's tools write it.
    pub name: &'static str,
    /// Numbers in a block; a row is a whole number of blocks.
    pub block: u64,
    /// Bytes of a block.
    pub bytes: u64,
}

const fn tensor(name: &'static str, block: u64, bytes: u64) -> Option<TensorType> {
    Some(TensorType { name, block, bytes })
}

/// The type with this number; `None` for one that is not known, or that ggml has given up.
#[must_use]
pub const fn tensor_type(number: u32) -> Option<TensorType> {
    match number {
        0 => tensor("F32", 1, 4),
        1 => tensor("F16", 1, 2),
        2 => tensor("Q4_0", 32, 18),
        3 => tensor("Q4_1", 32, 20),
        6 => tensor("Q5_0", 32, 22),
        7 => tensor("Q5_1", 32, 24),
        8 => tensor("Q8_0", 32, 34),
        9 => tensor("Q8_1", 32, 36),
        10 => tensor("Q2_K", 256, 84),
        11 => tensor("Q3_K", 256, 110),
        12 => tensor("Q4_K", 256, 144),
        13 => tensor("Q5_K", 256, 176),
        14 => tensor("Q6_K", 256, 210),
        15 => tensor("Q8_K", 256, 292),
        16 => tensor("IQ2_XXS", 256, 66),
        17 => tensor("IQ2_XS", 256, 74),
        18 => tensor("IQ3_XXS", 256, 98),
        19 => tensor("IQ1_S", 256, 50),
        20 => tensor("IQ4_NL", 32, 18),
        21 => tensor("IQ3_S", 256, 110),
        22 => tensor("IQ2_S", 256, 82),
        23 => tensor("IQ4_XS", 256, 136),
        24 => tensor("I8", 1, 1),
        25 => tensor("I16", 1, 2),
        26 => tensor("I32", 1, 4),
        27 => tensor("I64", 1, 8),
        28 => tensor("F64", 1, 8),
        29 => tensor("IQ1_M", 256, 56),
        30 => tensor("BF16", 1, 2),
        34 => tensor("TQ1_0", 256, 54),
        35 => tensor("TQ2_0", 256, 66),
        39 => tensor("MXFP4", 32, 17),
        40 => tensor("NVFP4", 64, 36),
        41 => tensor("Q1_0", 128, 18),
        42 => tensor("Q2_0", 64, 18),
        _ => None,
    }
}

/// What `general.file_type` says: how most tensors of a file are stored. `None` for a number that is not known.
#[must_use]
pub const fn file_type(number: u64) -> Option<&'static str> {
    Some(match number {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K",
        11 => "Q3_K_S",
        12 => "Q3_K_M",
        13 => "Q3_K_L",
        14 => "Q4_K_S",
        15 => "Q4_K_M",
        16 => "Q5_K_S",
        17 => "Q5_K_M",
        18 => "Q6_K",
        19 => "IQ2_XXS",
        20 => "IQ2_XS",
        21 => "Q2_K_S",
        22 => "IQ3_XS",
        23 => "IQ3_XXS",
        24 => "IQ1_S",
        25 => "IQ4_NL",
        26 => "IQ3_S",
        27 => "IQ3_M",
        28 => "IQ2_S",
        29 => "IQ2_M",
        30 => "IQ4_XS",
        31 => "IQ1_M",
        32 => "BF16",
        36 => "TQ1_0",
        37 => "TQ2_0",
        38 => "MXFP4_MOE",
        39 => "NVFP4",
        40 => "Q1_0",
        41 => "Q2_0",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_type_is_named_like_its_tensors() {
        // Q4_K_M is most of all Q4_K, and so on; IQ*_XS and _M of a family that has no tensors of that name.
        for number in 0..=41 {
            let Some(name) = file_type(number) else { continue };
            let base = name.trim_end_matches("_MOE").trim_end_matches(['S', 'M', 'L']).trim_end_matches('_');
            let known = |name: &str| (0..64).filter_map(tensor_type).any(|tensor| tensor.name == name);
            assert!(known(name) || known(base) || ["IQ3_XS", "IQ3_M", "IQ2_M"].contains(&name), "{name}");
        }
    }

    #[test]
    fn what_is_not_known_is_not_made_up() {
        for number in [4, 5, 31, 32, 33, 36, 37, 38, 43, u32::MAX] {
            assert_eq!(tensor_type(number), None);
        }
        for number in [4, 5, 6, 33, 34, 35, 42, 1024, u64::MAX] {
            assert_eq!(file_type(number), None);
        }
    }
}
