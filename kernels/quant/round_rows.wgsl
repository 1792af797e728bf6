// Rows as signed bytes, four to a word, with the rows in registers: those of a workgroup, or of one turn of it. INPUT is what makes
// v0, v1, … of row `row`, at its groups k0, k1, …, and t, an invocation's place. byte_rounding.wgsl is prepended. Kernels have x,
// parameters with rows and groups (words of a row), and take what is made by put_word and put_scale.
fn round_rows(index: u32, block: u32) {
  INPUT;
  var most = 0.0;
  #{most = select(most, most_of(most, v#), k# < params.groups);}#
  most = row_max(most, t.x, t.y);
  if (row >= params.rows) {
    return;
  }
  let scale = scale_of(most);
  let usable = is_usable(most);
  #{if (k# < params.groups) { put_word(row, k#, select(0u, word_of(v#, scale), usable)); }}#
  if (t.x == 0u) {
    put_scale(row, stored_scale(most));
  }
}
