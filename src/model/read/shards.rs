//! The names of shards: `NAME-00002-of-00003.gguf`, and the same for safetensors.

/// The name of a file that is one of several.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShardName {
    /// What comes before the numbers.
    pub(crate) base: String,
    /// Which one; the first is 1.
    pub number: u32,
    /// How many there are.
    pub(crate) count: u32,
    /// What comes after the last dot.
    pub(crate) extension: String,
}

impl ShardName {
    /// Takes a file name apart; `None` if it is not a shard's. The numbers have five digits, as llama.cpp expects them.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (stem, extension) = name.rsplit_once('.')?;
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (base, number) = rest.rsplit_once('-')?;
        let digits = |text: &str| match text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => text.parse().ok(),
            false => None,
        };
        let (number, count) = (digits(number)?, digits(count)?);
        let shard = Self { base: base.to_owned(), number, count, extension: extension.to_owned() };
        (1..=count).contains(&number).then_some(shard)
    }

    /// The name of one of its siblings, or its own.
    #[must_use]
    pub fn sibling(&self, number: u32) -> String {
        format!("{}-{number:05}-of-{:05}.{}", self.base, self.count, self.extension)
    }

    /// The names of all shards, in order.
    pub(crate) fn all(&self) -> impl Iterator<Item = String> {
        (1..=self.count).map(|number| self.sibling(number))
    }

    /// The name that a file of all shards would have.
    #[must_use]
    pub(crate) fn whole(&self) -> String {
        format!("{}.{}", self.base, self.extension)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart_and_made() {
        let shard = ShardName::parse("a-b-00002-of-00003.gguf").unwrap();
        assert_eq!((shard.base.as_str(), shard.number, shard.count), ("a-b", 2, 3));
        assert_eq!(shard.sibling(shard.number), "a-b-00002-of-00003.gguf");
        let all: Vec<_> = shard.all().collect();
        assert_eq!(all, ["a-b-00001-of-00003.gguf", "a-b-00002-of-00003.gguf", "a-b-00003-of-00003.gguf"]);
        assert_eq!(shard.whole(), "a-b.gguf");
    }

    #[test]
    fn other_names_are_no_shards() {
        for name in [
            "model.gguf",
            "m-1-of-2.gguf",
            "m-00000-of-00002.gguf",
            "m-00003-of-00002.gguf",
            "m-00001-of-00002",
            "m-+0001-of-00002.gguf",
            "00001-of-00002.gguf",
            "m-00001-of-000002.gguf",
            "",
        ] {
            assert_eq!(ShardName::parse(name), None, "{name}");
        }
    }
}
