"""What an image shows and where: tags, boxes, masks."""
