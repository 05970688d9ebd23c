//! Reads Rust source as tokens and finds the paths in it, so that comments,
//! strings and line breaks deceive nobody.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A path as it stands in the source: `crate::wire::Ask`, `std::fs`, or one name.
/// A `use` with braces gives one path for each branch.
#[derive(Debug, PartialEq, Eq)]
pub struct Path {
    pub segments: Vec<String>,
    pub line: usize,
    /// How deep the module lies in which it stands; the crate's root is 0.
    pub depth: usize,
    /// Whether it stands in an item for tests only.
    pub in_test: bool,
}

/// What a file says.
#[derive(Default)]
pub struct Source {
    pub paths: Vec<Path>,
    /// Modules in files of their own that are for tests only.
    pub test_modules: Vec<String>,
}

impl Source {
    /// Reads a file whose module lies `depth` below the crate's root.
    pub fn read(text: &str, depth: usize) -> Self {
        let tokens: TokenStream = text.parse().expect("Rust source");
        let mut source = Self::default();
        source.walk(tokens, depth, false);
        source
    }

    fn walk(&mut self, tokens: TokenStream, depth: usize, in_test: bool) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        let mut next_item_is_test = false;
        while at < tokens.len() {
            let rest = &tokens[at..];
            if next_item_is_test && !is_punct(&rest[0], '#') {
                let len = item_len(rest);
                let item: TokenStream = rest[..len].iter().cloned().collect();
                if let Some(module) = module_in_own_file(&rest[..len]) {
                    self.test_modules.push(module);
                }
                next_item_is_test = false;
                self.walk(item, depth, true);
                at += len;
                continue;
            }
            match &rest[0] {
                TokenTree::Punct(punct) if punct.as_char() == '\'' => at += 2,
                TokenTree::Punct(punct) if punct.as_char() == '#' => {
                    next_item_is_test |= rest.get(1).is_some_and(is_test_attribute);
                    at += 1;
                }
                TokenTree::Ident(ident) if ident == "mod" => {
                    at += self.module(rest, depth, in_test);
                }
                TokenTree::Ident(_) => {
                    at += self.path(rest, &[], depth, in_test);
                }
                TokenTree::Group(group) => {
                    self.walk(group.stream(), depth, in_test);
                    at += 1;
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => at += 1,
            }
        }
    }

    /// `mod name { … }` lies one deeper; gives how many tokens were read.
    fn module(&mut self, tokens: &[TokenTree], depth: usize, in_test: bool) -> usize {
        match tokens.get(2) {
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                self.walk(group.stream(), depth + 1, in_test);
                3
            }
            _ => 2,
        }
    }

    /// Reads the path that begins here, behind `prefix`; gives how many tokens it
    /// took.
    fn path(
        &mut self,
        tokens: &[TokenTree],
        prefix: &[String],
        depth: usize,
        in_test: bool,
    ) -> usize {
        let line = tokens[0].span().start().line;
        let mut segments = prefix.to_vec();
        segments.push(tokens[0].to_string());
        let mut at = 1;
        while let [colon, second, next, ..] = &tokens[at..]
            && is_punct(colon, ':')
            && is_punct(second, ':')
        {
            match next {
                TokenTree::Ident(ident) => segments.push(ident.to_string()),
                TokenTree::Punct(star) if star.as_char() == '*' => segments.push("*".to_owned()),
                TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                    self.branches(group.stream(), &segments, depth, in_test);
                    return at + 3;
                }
                _ => break,
            }
            at += 3;
        }
        self.paths.push(Path {
            segments,
            line,
            depth,
            in_test,
        });
        at
    }

    /// The branches of `use prefix::{…}`.
    fn branches(&mut self, tokens: TokenStream, prefix: &[String], depth: usize, in_test: bool) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for branch in tokens.split(|token| is_punct(token, ',')) {
            match branch.first() {
                Some(TokenTree::Ident(ident)) if ident == "self" => {
                    let line = ident.span().start().line;
                    self.paths.push(Path {
                        segments: prefix.to_vec(),
                        line,
                        depth,
                        in_test,
                    });
                }
                Some(_) => {
                    self.path(branch, prefix, depth, in_test);
                }
                None => {}
            }
        }
    }
}

fn is_punct(token: &TokenTree, wanted: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == wanted)
}

/// Whether a group is the `[cfg(test)]` of an attribute, or one with more to it.
fn is_test_attribute(token: &TokenTree) -> bool {
    let TokenTree::Group(group) = token else {
        return false;
    };
    let text = group.to_string().replace(' ', "");
    text == "[test]" || text == "[cfg(test)]" || text.starts_with("[cfg(all(test,")
}

/// Tokens of the item that begins here: to its braces or its semicolon.
fn item_len(tokens: &[TokenTree]) -> usize {
    let is_end = |token: &TokenTree| {
        is_punct(token, ';')
            || matches!(token, TokenTree::Group(g) if g.delimiter() == Delimiter::Brace)
    };
    let end = tokens.iter().position(is_end);
    end.map_or(tokens.len(), |end| end + 1)
}

/// The name in `mod name;`.
fn module_in_own_file(item: &[TokenTree]) -> Option<String> {
    let is_mod = |token: &TokenTree| matches!(token, TokenTree::Ident(ident) if ident == "mod");
    let at = item.iter().position(is_mod)?;
    is_punct(item.last()?, ';').then(|| item[at + 1].to_string())
}
